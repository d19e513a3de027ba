# The same 100 iterations of the same weights, with a PWLU at every place that has a ReLU. It starts
# as the detector that was trained: tools/test.py on the ReLU checkpoint gives the same AP.
_base_ = './mask-rcnn_relu-more_mini-coco.py'

model = dict(type='mmact.Converted', original='MaskRCNN', act_cfg=dict(type='PWLU'))
optim_wrapper = dict(
    constructor='ActivationParamConstructor', paramwise_cfg=dict(activation_lr_mult=5)
)
