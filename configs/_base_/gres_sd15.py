# Several targets or none, with Stable Diffusion 1.5: ReLA's loss and region grid on VPD's features.
_base_ = ["./res_sd15.py"]
task = "gres"
model = dict(
    head=dict(type="GRESHead", mask=dict(type="VPDDecoder"), grid=10),
    loss_weights=dict(total=5.0, minimap=0.1, no_target=0.1),
)
data = dict(
    dataset="grefcoco",
    overlap="union",  # ReLA: pixels under several parts of an outline are the object's
)
gres = dict(
    no_target=None,  # who says "nothing here": 'head', 'pixels', or None: the head, if it has one
    drawn_at="input",  # outlines: 'input', as ReLA does, or 'original', the mask resized (VPD)
    pixels=50,  # a mask of fewer pixels says "nothing here"
    match="giou",  # boxes of task grec: 'giou', as the published code has it, or 'iou'
)
