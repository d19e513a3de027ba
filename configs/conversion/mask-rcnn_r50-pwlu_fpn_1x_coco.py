# MMDetection's Mask R-CNN with a PWLU at every place that has a ReLU, heads included. It starts as
# the ReLU network: `load_from` a checkpoint of the original gives its detections before training.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)

model = dict(type='mmact.Converted', original='MaskRCNN', act_cfg=dict(type='PWLU'))
optim_wrapper = dict(constructor='ActivationParamConstructor')
