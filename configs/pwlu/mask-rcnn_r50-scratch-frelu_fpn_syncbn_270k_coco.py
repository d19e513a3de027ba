_base_ = './mask-rcnn_r50-scratch-relu_fpn_syncbn_270k_coco.py'
act_cfg = dict(type='FReLU')
# FReLU looks at neighbouring pixels, so that the linear layer keeps its ReLU.
model = dict(
    # The heads' activations; the backbone has its own.
    type='mmact.Converted',
    original='MaskRCNN',
    exclude=['backbone', r'bbox_head\.relu.*'],
    act_cfg=act_cfg,
    backbone=dict(act_cfg=dict(_delete_=True, **act_cfg)),
)
