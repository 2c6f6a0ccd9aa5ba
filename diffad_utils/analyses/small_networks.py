"""Networks that several studies train in minutes: D3AD's of notebook 06's smoke profile, which ``benchmarks`` use too.

Entry point: `D3AD_NETWORK`.
"""

D3AD_NETWORK = {
    "block_out_channels": (32, 64, 64),
    "attention_resolutions": (4,),
    "train_batch_size": 16,
    "learning_rate": 0.002,
    "max_train_timestep": 400,
}
"""Fields of `methods.d3ad.D3AD`, and of GLAD: the defaults of notebook 06's parameters. The number of steps is each
study's own."""
