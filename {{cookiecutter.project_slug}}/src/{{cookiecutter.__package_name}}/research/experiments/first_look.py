# %% [markdown]
# A first look at the data
# Size, base rate, correlations and missing values. Run the script with `uv run python` or cell by cell in an IDE; call
# `run` first to fill the lake.

# %%
import polars as pl

from {{cookiecutter.__package_name}}.core import plots
from {{cookiecutter.__package_name}}.core.contracts.schema import TARGET
from {{cookiecutter.__package_name}}.research.experiment import show, start
from {{cookiecutter.__package_name}}.shared import PROBLEM

experiment = start(PROBLEM, "first look")
features, as_of = experiment.problem.features, experiment.as_of
rows = experiment.rows()
print(f"{len(rows)} labelled flights as of {as_of:%Y-%m-%d %H:%M} UTC")

# %% Base rate by month
late = pl.col(TARGET).mean().alias("late")
monthly = rows.group_by(pl.col("local_date").dt.truncate("1mo").alias("month")).agg(pl.len(), late).sort("month")
show(monthly)

# %% Base rate by hour, carrier and delay
hourly = rows.group_by((pl.col("local_minute") // 60).cast(pl.Int64).alias("hour")).agg(pl.len(), late).sort("hour")
carriers = rows.group_by("carrier").agg(pl.len(), late).sort("late", descending=True)
tenth = (pl.col("delay_mean").rank() * 10 // (pl.col("delay_mean").count() + 1)).alias("tenth")
delayed = rows.drop_nulls("delay_mean").group_by(tenth).agg(pl.col("delay_mean").mean(), late).sort("tenth")
show(carriers)

# %% Missing values
shares = rows.select(pl.col(features).null_count() / pl.len()).transpose(
    include_header=True, header_name="feature", column_names=["missing"]
)
show(shares.filter(pl.col("missing") > 0))

# %% A plot
figure = plots.figure(11, 7)
axes = figure.subplots(2, 2).ravel()
axes[0].bar(monthly["month"].dt.strftime("%b"), monthly["late"])
axes[0].set(title="late, by month")
axes[1].bar(hourly["hour"], hourly["late"])
axes[1].set(title="late, by local hour")
axes[2].barh(carriers["carrier"], carriers["late"])
axes[2].set(title="late, by carrier")
axes[3].plot(delayed["delay_mean"], delayed["late"], marker="o")
axes[3].set(title="late, by mean delay of the last three hours", xlabel="minutes")

# %% Log a tracked run
rate = float(rows.select(pl.col(TARGET).mean()).item())
experiment.log(f"{rate:.1%} are late", {"rows": len(rows), "base_rate": rate}, table=hourly, figure=figure)
