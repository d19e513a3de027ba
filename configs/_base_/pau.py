# PAU as in the paper: order (5, 4), one function per layer, started as Leaky ReLU with slope 0.01
# (section A.4.1).
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)
pau = dict(type='PAU', m=5, n=4, init='leaky_relu_0.01', num_groups=1)

# Of the coefficients: no weight decay and a constant learning rate, as on CIFAR-10 (section A.4.1);
# here 0.002, whatever that of the network is. Of all: gradients clipped as in the authors' program
# for MNIST.
pau_optim = dict(
    constructor='ActivationParamConstructor',
    clip_grad=dict(max_norm=5, norm_type=2),
    paramwise_cfg=dict(activation_constant_lr=True),
)
