"""A short run of the fuzzer; `python tests/fuzz/fuzz_readers.py --seconds 300` is the long one."""

from fuzz_readers import run


def test_readers_and_grammar_survive_a_short_run():
    count, accepted, findings = run(20, seed=1, most=1000)
    assert findings == []
    assert count == 1000
    assert accepted > 400  # all sentences, and files damaged where it does not matter
