# %% [markdown]
# # A first look at the data
# What is there, how often it happens, and what goes with it. Run whole, `uv run python` and this file's path, or cell
# by cell in an IDE; `run` fills the lake first.

# %%
from io import BytesIO

import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from {{cookiecutter.__package_name}}.shared import dataset
from {{cookiecutter.__package_name}}.shared.registry import provenance
from {{cookiecutter.__package_name}}.shared.schema import TARGET
from {{cookiecutter.__package_name}}.shared.workspace import open_workspace

workspace = open_workspace()
as_of = workspace.now()
rows = dataset.training_set(workspace.problem, workspace.lake, as_of=as_of)
print(f"{len(rows)} flights whose outcome was known as of {as_of:%Y-%m-%d %H:%M} UTC")

# %% How often, and does it stay the same?
late = pl.col(TARGET).mean().alias("late")
monthly = rows.group_by(pl.col("local_date").dt.truncate("1mo").alias("month")).agg(pl.len(), late).sort("month")
print(monthly)

# %% What goes with it?
hourly = rows.group_by((pl.col("local_minute") // 60).cast(pl.Int64).alias("hour")).agg(pl.len(), late).sort("hour")
carriers = rows.group_by("carrier").agg(pl.len(), late).sort("late", descending=True)
tenth = (pl.col("delay_mean").rank() * 10 // (pl.col("delay_mean").count() + 1)).alias("tenth")
delayed = rows.drop_nulls("delay_mean").group_by(tenth).agg(pl.col("delay_mean").mean(), late).sort("tenth")
print(carriers)

# %% What is missing?
shares = rows.select(pl.col(workspace.problem.features).null_count() / pl.len()).transpose(
    include_header=True, header_name="feature", column_names=["missing"]
)
print(shares.filter(pl.col("missing") > 0))

# %% A picture
figure = Figure(figsize=(11, 7), layout="constrained")
FigureCanvasAgg(figure)
axes = figure.subplots(2, 2).ravel()
axes[0].bar(monthly["month"].dt.strftime("%b"), monthly["late"])
axes[0].set(title="late, by month")
axes[1].bar(hourly["hour"], hourly["late"])
axes[1].set(title="late, by local hour")
axes[2].barh(carriers["carrier"], carriers["late"])
axes[2].set(title="late, by carrier")
axes[3].plot(delayed["delay_mean"], delayed["late"], marker="o")
axes[3].set(title="late, by the airport's mean delay in the three hours before", xlabel="minutes")
picture = BytesIO()
figure.savefig(picture, dpi=100, metadata={"Software": None})
path = workspace.path(workspace.settings.reports) / "first-look.png"
path.parent.mkdir(exist_ok=True)
path.write_bytes(picture.getvalue())
print(path)

# %% Keep it as a tracked run
made_of = provenance(workspace.root, tables=dataset.versions(workspace.problem, workspace.lake), as_of=as_of)
with workspace.registry.run("first look", {"as_of": as_of.isoformat()}, made_of) as run:
    run.log({"rows": len(rows), "rate": rows.select(pl.col(TARGET).mean()).item()})
    run.keep(path.name, picture.getvalue())
print(f"run {run.id}")
