"""`unnorm study`: a matrix of models × datasets × arms × strategies × seeds, one file a verb."""

from unnorm.cli.plain_group import Verbs
from unnorm.cli.study.compare import compare
from unnorm.cli.study.export import export
from unnorm.cli.study.new import EXAMPLE, new, schema
from unnorm.cli.study.plan import plan
from unnorm.cli.study.run import retry, run
from unnorm.cli.study.status import status
from unnorm.cli.study.table import table

app = Verbs(help="A matrix of models × datasets × arms × strategies × seeds, from a YAML file.")

app.command(epilog=EXAMPLE)(new)
for verb in (plan, run, retry, status, table, compare, export):
    example = f"Example: [bold]unnorm study {verb.__name__} recipes/alpaca-pythia-14m/study.yaml[/bold]"
    app.command(epilog=example)(verb)
app.command(epilog="Example: [bold]unnorm study schema > study.schema.json[/bold]")(schema)
