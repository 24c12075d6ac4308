"""Any graph of the allowed operators runs, merged into kernels or not, with onnxruntime's values."""


def test_lone_operators_equal_onnxruntime(graphs, check):
    b = graphs.Builder(1, 3, 9, 11)
    x = b.pixel_conv(20, 3)
    y = b.op("Add", x, x)
    z = b.op("Relu", b.op("Relu", y))
    p = b.max_pool(z, 3, 2, 1)
    s = b.pad_shortcut(p, 0, 7, 2)
    a = b.quantize(s, 2)
    c = b.conv(a, "Ternary", 27, (3, 3), (1, 1), (1, 1, 1, 1))
    b.classifier(b.op("Add", s, c))
    check(b)


def test_several_quantizers_and_readers_of_one_tensor(graphs, check):
    b = graphs.Builder(2, 3, 12, 12)
    x = b.op("Relu", b.pixel_conv(16, 3))
    outs = []
    for bits, kind in ((1, "Binary"), (2, "Ternary"), (4, "Quaternary"), (8, "Binary"), (2, "Binary")):
        a = b.quantize(x, bits)
        outs.append(b.conv(a, kind, 40, (3, 3), (1, 1), (1, 1, 1, 1)))
        outs.append(b.conv(a, kind, 40, (1, 1)))
    y = outs[0]
    for other in outs[1:]:
        y = b.op("Add", y, other)
    b.classifier(b.op("Relu", y))
    check(b)


def test_sign_after_relu_is_always_set_and_padding_channels_stay_clear(graphs, check):
    b = graphs.Builder(3, 1, 8, 8)
    x = b.op("Relu", b.pixel_conv(5, 3))
    y = b.op("Relu", b.conv(b.quantize(x, 1), "Binary", 3, (3, 3), (1, 1), (1, 1, 1, 1)))
    b.classifier(b.conv(b.quantize(y, 1), "Binary", 18, (1, 1)))
    check(b)


def test_one_bit_quantize_with_a_step(graphs, check):
    b = graphs.Builder(4, 3, 8, 8)
    x = b.quantize(b.pixel_conv(16, 3), 1, sign=False)
    y = b.quantize(b.conv(x, "Ternary", 16, (3, 3), (1, 1), (1, 1, 1, 1)), 1, sign=False)
    b.classifier(b.conv(y, "Binary", 16, (3, 3)))
    check(b)


def test_lone_prelus_and_thresholds_of_channels(graphs, check):
    b = graphs.Builder(9, 3, 9, 11)
    x = b.prelu(b.pixel_conv(21, 3))
    y = b.prelu(b.prelu(b.op("Add", x, x)))
    p = b.max_pool(b.op("Relu", b.prelu(b.max_pool(b.prelu(y), 3, 2, 1))), 2, 1, 0)
    c = b.conv(b.channel_sign(p), "Ternary", 21, (1, 1))
    d = b.prelu(b.conv(b.channel_sign(c), "Binary", 21, (1, 1)))
    b.classifier(b.op("Add", d, b.conv(b.channel_sign(b.prelu(d)), "Quaternary", 21, (1, 1))))
    check(b)


def test_channels_put_in_front_by_a_shortcut(graphs, check):
    b = graphs.Builder(5, 3, 7, 7)
    x = b.pixel_conv(9, 3)
    b.classifier(b.conv(b.quantize(b.pad_shortcut(x, 4, 5, 2), 2), "Binary", 8, (1, 1)))
    check(b)


def test_bottleneck_equals_onnxruntime(graphs, check):
    b = graphs.Builder(6, 3, 14, 14)
    x = b.op("Relu", b.pixel_conv(64, 3))
    a = b.quantize(x, 2)
    y = b.quantize(b.op("Relu", b.conv(a, "Ternary", 32, (1, 1))), 2)
    y = b.quantize(b.op("Relu", b.conv(y, "Ternary", 32, (3, 3), (2, 2), (1, 1, 1, 1))), 2)
    y = b.conv(y, "Ternary", 128, (1, 1))
    s = b.conv(a, "Ternary", 128, (1, 1), (2, 2))
    b.classifier(b.op("Relu", b.op("Add", y, s)))
    check(b)


def test_two_stems_with_different_zero_points(graphs, check):
    b = graphs.Builder(7, 2, 10, 10)
    b.classifier(b.op("Add", b.pixel_conv(16, 3, zero_point=0), b.pixel_conv(16, 5, zero_point=255)))
    check(b)


def test_memory_is_shared_only_where_values_are_dead(graphs, check):
    b = graphs.Builder(8, 3, 16, 16)
    x = b.pixel_conv(16, 3)
    keep = [x]
    for i in range(6):
        a = b.quantize(keep[-1], 2 if i % 2 else 1)
        keep.append(b.conv(a, "Ternary", 16, (3, 3), (1, 1), (1, 1, 1, 1)))
    y = keep[-1]
    for k in (0, 3, 1):
        y = b.op("Add", y, keep[k])
    b.classifier(y)
    check(b)
