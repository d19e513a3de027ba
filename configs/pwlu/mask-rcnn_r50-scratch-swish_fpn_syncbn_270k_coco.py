_base_ = './mask-rcnn_r50-scratch-relu_fpn_syncbn_270k_coco.py'
# SiLU is Swish with beta = 1, and in PyTorch one fused operation.
act_cfg = dict(type='SiLU')
model = dict(
    # The heads' activations; the backbone has its own.
    type='mmact.Converted',
    original='MaskRCNN',
    exclude='backbone',
    act_cfg=act_cfg,
    backbone=dict(act_cfg=dict(_delete_=True, **act_cfg)),
)
