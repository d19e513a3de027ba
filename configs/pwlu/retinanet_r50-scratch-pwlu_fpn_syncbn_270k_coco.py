_base_ = [
    './retinanet_r50-scratch-relu_fpn_syncbn_270k_coco.py',
    '../_base_/pwlu_realign_5e_coco.py',
]
act_cfg = dict(type='PWLU', num_intervals=16)
model = dict(
    # The heads' activations; the backbone has its own.
    type='mmact.Converted',
    original='RetinaNet',
    exclude='backbone',
    act_cfg=act_cfg,
    backbone=dict(act_cfg=dict(_delete_=True, **act_cfg)),
)
