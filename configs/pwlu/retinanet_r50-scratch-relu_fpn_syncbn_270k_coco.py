_base_ = [
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    '../_base_/scratch_syncbn_270k.py',
]
# A head with a BN for each of the five levels that it is applied to: their statistics differ, and
# the running statistics of a common BN would fit none of them.
model = dict(
    backbone=_base_.scratch.backbone,
    neck=dict(norm_cfg=_base_.scratch.norm_cfg),
    bbox_head=dict(type='RetinaSepBNHead', num_ins=5, norm_cfg=_base_.scratch.norm_cfg),
)
train_dataloader = _base_.scratch.train_dataloader
train_cfg = dict(_delete_=True, **_base_.scratch.train_cfg)
param_scheduler = _base_.scratch.param_scheduler
optim_wrapper = _base_.scratch.optim_wrapper
default_hooks = _base_.scratch.default_hooks
log_processor = _base_.scratch.log_processor
