from unnorm.study.tables import latex, tabular


def test_nothing_in_a_text_is_a_command():
    assert latex(r"\input{a} 50% of $x_1^2$ & #~") == (
        r"\textbackslash{}input\{a\} 50\% of \$x\_1\textasciicircum{}2\$ \& \#\textasciitilde{}"
    )


def test_it_is_one_line_without_control_characters():
    assert "\x1b" not in latex("a\x1b[2J\n\nb")
    assert latex("a\n\nb − c < d") == "a b $-$ c $<$ d"


def test_a_row_that_begins_with_what_a_line_break_would_take_keeps_it():
    *_, first, second, _, _ = tabular(["arm"], [["[2em] x"], ["* y"]], 1)
    assert (first, second) == (r"{[}2em] x \\", r"{*} y \\")
