# Several targets or none on the embedded backbone, frozen. Nothing here is a published protocol.
_base_ = ["./res_tiny.py"]
task = "gres"
model = dict(
    head=dict(
        _delete_=True,
        type="GRESHead",
        mask=dict(type="WordDecoder", channels=64, word_channels=64, layers=2),
        existence="any",
        region_masks=False,
        region_gradient=False,
        grid=8,
        width=128,
        heads=4,
        feedforward=256,
    ),
    # Larger than ReLA's 0.1: its runs are hundreds of times longer.
    loss_weights=dict(total=1.0, minimap=0.2, no_target=0.5),
)
data = dict(dataset="grefcoco")
gres = dict(no_target=None, pixels=50, match="giou")
