from report.views import study
from unnorm.cli.study.table import emit_results


def test_the_table_says_which_cells_are_missing(capsys):
    broken = {("dyt", "full", 0): "failed", ("dyt", "frozen", 0): "waiting", ("dyt-bare", "full", 0): "waiting"}
    emit_results(study(broken=broken))
    assert "3 of 6 cells have no result: 2 waiting, 1 failed" in " ".join(capsys.readouterr().err.split())
    emit_results(study())
    assert "no result" not in capsys.readouterr().err
