# The demo's Mask R-CNN as MMDetection has it, with ReLU: what `make demo-convert` trains, and then
# converts.
_base_ = '../mask-rcnn_pwlu_mini-coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        base_channels=32,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        zero_init_residual=False,
    )
)
custom_hooks = []
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor', paramwise_cfg=dict(_delete_=True)
)
