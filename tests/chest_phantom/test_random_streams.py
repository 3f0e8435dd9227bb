from chest_phantom.random_streams import Stream


def test_draws_are_the_same_on_every_machine():
    stream = Stream(0, "valid", 3, "a")
    assert [stream.integer(0, 999) for _ in range(3)] == [504, 525, 144]
    assert stream.bytes((4,)).tolist() == [58, 112, 195, 114]


def test_each_key_has_its_own_stream():
    assert Stream(0, "train", 1).uniform() != Stream(0, "valid", 1).uniform()
    assert Stream(0, "train", 1).uniform() == Stream(0, "train", 1).uniform()


def test_bell_is_nearly_a_standard_normal():
    stream = Stream("bell")
    draws = [stream.bell() for _ in range(4000)]
    mean = sum(draws) / len(draws)
    assert abs(mean) < 0.06
    assert abs(sum((x - mean) ** 2 for x in draws) / len(draws) - 1) < 0.1
