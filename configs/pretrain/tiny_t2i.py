# The embedded backbone, checkpoints/tiny-t2i: 128 x 128 pictures of RefShapes' train split, of
# another seed than any data set that is scored here.
data = dict(pictures=24000, size=128, seed=7)
autoencoder = dict(
    steps=6000,
    batch=16,
    lr=2e-3,
    warmup=200,
    save_every=1000,
    options=dict(crop=64, kl=1e-6),
)
denoiser = dict(
    steps=5200,
    batch=64,
    lr=1e-3,
    warmup=300,
    save_every=500,
    sample_every=1000,
    options=dict(lengths=(16, 24, 40), dropout=0.1, snr_gamma=5.0),
)
