_base_ = ['./retinanet_r50_fpn_1x_coco.py', '../_base_/everywhere.py']
model = dict(original='RetinaNet', **_base_.everywhere.pwlu)
optim_wrapper = dict(constructor=_base_.constructor)
custom_hooks = [dict(type='PWLURealignHook', phase1=1)]
