_base_ = './efficientnet-b0-relu_16xb64-350e_in1k.py'
# The activations of squeeze-and-excitation stay.
model = dict(
    type='mmact.Converted', original='ImageClassifier', act_cfg=dict(type='PWLU'), exclude='se'
)
custom_hooks = [dict(type='PWLURealignHook', phase1=5)]
