"""The norms: what can stand at a site. Each has a spec (its configuration) and a module; knows nothing of models.

Importing this room registers every norm, so that whatever reads a spec by its name knows them all.
"""

from unnorm.norms import dyt as dyt
