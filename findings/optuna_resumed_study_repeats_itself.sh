#!/usr/bin/env bash
# optuna 5.0.0: a seeded search that is resumed starts with the trials it has already done.
#
# Behaviour: storage keeps the trials, not the sampler's random state. TPESampler(seed=0) in a
# second process draws the same numbers again until ten trials exist, and RandomSampler(seed=0) for
# ever: a search of 6 + 6 trials tried 8 different values, one of 6 + 6 at random tried 6. The study counts
# them as twelve. No warning. The search looks finished and covered half of its ground.
# What to do: another seed for each resumption (seed + number of trials), or no seed.
# Output seen:
#   TPE: 12 trials, 8 different values; the first 4 of the second run repeat the first run: True
#   random: 12 trials, 6 different values

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check optuna==5.0.0
venv/bin/python - <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
seen = {}
for name, sampler in (("TPE", optuna.samplers.TPESampler), ("random", optuna.samplers.RandomSampler)):
    storage = optuna.storages.InMemoryStorage()
    for _ in range(2):
        study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True, sampler=sampler(seed=0))
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1) ** 2, n_trials=6)
    seen[name] = [trial.params["x"] for trial in study.trials]
tpe, chance = seen["TPE"], seen["random"]
print(f"TPE: {len(tpe)} trials, {len(set(tpe))} different values; "
      f"the first 4 of the second run repeat the first run: {tpe[6:10] == tpe[:4]}")
print(f"random: {len(chance)} trials, {len(set(chance))} different values")
assert len(tpe) == 12 and tpe[6:10] == tpe[:4] and len(set(tpe)) == 8
assert chance[6:] == chance[:6]
PY
