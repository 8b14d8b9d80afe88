"""The norms: what can stand at a site. Each has a spec (its configuration) and a module; knows nothing of models.

Importing this room registers every norm, so that whatever reads a spec by its name knows them all.
"""

from unnorm.norms import derf as derf
from unnorm.norms import dyisru as dyisru
from unnorm.norms import dyt as dyt
from unnorm.norms import fixed_scale as fixed_scale
from unnorm.norms import identity as identity
from unnorm.norms import kernels as kernels
from unnorm.norms import layer_norm as layer_norm
from unnorm.norms import rms_norm as rms_norm
