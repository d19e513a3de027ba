# PAU as in the paper: order (5, 4), one function per layer, started as Leaky ReLU with slope 0.01
# (section A.4.1).
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)
pau = dict(type='PAU', m=5, n=4, init='leaky_relu_0.01', num_groups=1)
