_base_ = ['./td-hm_res50_8xb64-210e_coco-256x192.py', '../_base_/everywhere.py']
model = dict(original='TopdownPoseEstimator', **_base_.everywhere.pwlu)
optim_wrapper = dict(constructor=_base_.constructor)
custom_hooks = [*_base_.custom_hooks, dict(type='PWLURealignHook', phase1=5)]
