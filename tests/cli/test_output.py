"""What verbs print."""

from unnorm.cli.output import emit_table


def test_names_in_a_tables_title_and_heads_are_text(capsys):
    emit_table("runs [old]/x: \x1b[31m", ["what", "mine[/b]"], [["[red]loss", "1"]])
    title, *rest = capsys.readouterr().out.splitlines()
    assert title.rstrip() == "runs [old]/x: \\u001b[31m"
    assert "mine[/b]" in rest[1]
    assert "[red]loss" in rest[3]
