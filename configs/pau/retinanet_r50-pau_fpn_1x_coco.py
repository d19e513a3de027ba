_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/pau.py']
model = dict(backbone=dict(type='mmact.ResNet', act_cfg=_base_.pau))
optim_wrapper = _base_.pau_optim
optim_wrapper.paramwise_cfg.activation_lr_mult = 0.2  # of 0.01
