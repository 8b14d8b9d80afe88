import pytest

from unnorm.cli.evaluate import told_apart


@pytest.mark.parametrize(
    ("names", "headings"),
    [
        (("study/cells/dyt-0/model", "study/cells/original-0/model/"), ["study/cells/dyt-0", "study/cells/original-0"]),
        (
            ("/very/long/folder/of/somebody/run-1/model", "distilgpt2"),
            ["/folder/of/somebody/run-1/model", "distilgpt2"],
        ),
        (("a/model", "a/model"), ["a", "a"]),
        (("model", "a/model"), ["model", "a/model"]),
    ],
)
def test_headings_tell_two_models_apart(names, headings):
    assert told_apart(*names) == [heading[-30:] for heading in headings]
