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
        region_cells=True,
        grid=8,
        width=128,
        heads=4,
        feedforward=256,
    ),
    # Small, so that the common clipping of gradients does not shorten the mask's because of theirs:
    # the mask is then learned as by the plain head. AdamW's steps do not mind the scale.
    loss_weights=dict(total=1.0, minimap=0.01, no_target=0.025),
)
data = dict(dataset="grefcoco", overlap="union")
gres = dict(no_target=None, drawn_at="input", pixels=50, match="giou")
