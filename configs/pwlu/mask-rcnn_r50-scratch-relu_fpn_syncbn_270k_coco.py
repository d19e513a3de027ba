_base_ = [
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    '../_base_/scratch_syncbn_270k.py',
]
# The box head with convolutions, so that it can be normalised, as in mmdet::scratch.
model = dict(
    backbone=_base_.scratch.backbone,
    neck=dict(norm_cfg=_base_.scratch.norm_cfg),
    roi_head=dict(
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            conv_out_channels=256,
            norm_cfg=_base_.scratch.norm_cfg,
        ),
        mask_head=dict(norm_cfg=_base_.scratch.norm_cfg),
    ),
)
train_dataloader = _base_.scratch.train_dataloader
train_cfg = dict(_delete_=True, **_base_.scratch.train_cfg)
param_scheduler = _base_.scratch.param_scheduler
optim_wrapper = _base_.scratch.optim_wrapper
default_hooks = _base_.scratch.default_hooks
log_processor = _base_.scratch.log_processor
