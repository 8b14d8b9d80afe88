"""The norms: what can stand at a site. Each has a spec (its configuration) and a module; knows nothing of models."""

NORMS = {
    "derf": "unnorm.norms.derf:Derf",
    "dyisru": "unnorm.norms.dyisru:DyISRU",
    "dyt": "unnorm.norms.dyt:DyT",
    "fixedscale": "unnorm.norms.fixed_scale:FixedScale",
    "identity": "unnorm.norms.identity:Identity",
    "layernorm": "unnorm.norms.layer_norm:LayerNorm",
    "rmsnorm": "unnorm.norms.rms_norm:RMSNorm",
}
"""Name -> its spec, which is imported when it is asked for: `--help` lists the names and imports no torch."""
