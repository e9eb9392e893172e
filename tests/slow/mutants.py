"""Faults that are made in the source on purpose, one at a time: each must fail the tests.

    python tests/slow/mutants.py            # all of them
    python tests/slow/mutants.py lattice    # those whose name has a word
    python tests/slow/mutants.py --jobs 14 --untouched --results mutants.jsonl
    python tests/slow/mutants.py --shard 1/14 --results mutants-1.jsonl

A mutant names the tests that must see it, a few seconds of the ordinary suite. It survives where
they pass. Those of `--jobs` run side by side, each job in its own copy of the package. A line of
`--results` is written as a mutant is done, and those in it are not run again. With `--untouched`
the tests are run without a fault too: what they kill means nothing where they fail then.
Exits 1 where one survives or does not end, 2 where the text of one is not found exactly once.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

# Seconds after which tests that do not end are stopped.
LIMIT = 300
UNTOUCHED = "without a fault: "

CONTRACT = "tests/test_contract.py"
ERRORS = "tests/test_standard_errors.py"
VARDIU, BOUND = "methods/vardiu/objective.py", "methods/vardiu/bound.py"
VARDIU_STAGES = "methods/vardiu/training.py"
REGRESSION, PAIRS = "methods/regression/objective.py", "methods/regression/pairs.py"
DIFF_INSTRUCT, DMD2 = "methods/diff_instruct/objective.py", "methods/dmd2.py"
DIFF_INSTRUCT_RECIPE = "methods/diff_instruct/__init__.py"
DIFF_INSTRUCT_SETTINGS = "methods/diff_instruct/settings.py"
ANCHORED, LAGGING = "methods/anchored.py", "methods/lagging.py"
CONSISTENCY, GRADIENTS = "methods/consistency.py", "monitoring/gradients.py"
STATES = "training/states.py"
RDD, RELATIONAL = "methods/rdd.py", "functional/relational.py"
SELF_CONSISTENCY, LCM = "methods/self_consistency.py", "methods/lcm.py"
CONSISTENCY_TRAINING = "methods/consistency_training.py"
PROGRESSIVE, LESSONS = "methods/progressive.py", "samplers/lessons.py"
FREEFLOW, MEAN_SHIFT = "methods/freeflow/objective.py", "methods/mean_shift.py"
FREEFLOW_START = "methods/freeflow/start.py"
EMD, CHAINS = "methods/emd/objective.py", "samplers/chains.py"
SDS, SID = "methods/sds/objective.py", "methods/sid.py"
FD_LOSS, ENERGY = "methods/fd_loss/objective.py", "methods/energy/objective.py"
D3SR, OSEDIFF = "methods/d3sr/objective.py", "methods/osediff.py"
RESTORER, PERCEPTION = "students/restorer.py", "functional/perception.py"
ADM, ADP = "methods/adm/objective.py", "methods/adp.py"
CRITICS, DIFF_RATIO = "methods/critics.py", "methods/diff_ratio/objective.py"
F_DISTILL, DIVERGENCES = "methods/f_distill/objective.py", "functional/divergences.py"
TRAINER, TRANSPORT = "training/trainer.py", "metrics/transport.py"
REDIF, POLICY = "methods/policy_gradient.py", "functional/policy.py"
LATTICE = ("tests/test_lattice.py",)
ROUGH = ("tests/test_rough_places.py",)
SHARES, UNITS = ("tests/test_shares.py",), ("tests/test_units.py",)
DISTRIBUTED, SHARDING = "training/distributed.py", "training/sharding.py"
INVERSE = "tests/test_inverse.py"
DIFFUSERS_CALLS, DIFFUSERS_TEXTS = "nn/diffusers_calls.py", "teachers/diffusers_texts.py"


class Mutant(NamedTuple):
    """A fault: in a file of the package, `new` stands in place of `old`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def contract(words: str) -> tuple[str, ...]:
    return (CONTRACT, "-k", words)


def errors(words: str) -> tuple[str, ...]:
    return (ERRORS, "-k", words)


def method(name: str, words: str = "") -> tuple[str, ...]:
    path = f"tests/methods/test_{name}.py"
    return (path, "-k", words) if words else (path,)


def paired(words: str = "interval_of_students or paired_seeds") -> tuple[str, ...]:
    return ("tests/test_bakeoff.py", "tests/test_studio.py", "-k", words)


def families(words: str) -> tuple[str, ...]:
    return ("tests/test_families.py", "-k", words)


FIXED, DESCENT, CONDITIONS = "laws_are_equal", "descent", "test_conditions"


# One label for all rows: what takes a label still gets one.
CONSTANT = "**{k: torch.zeros_like(v) for k, v in cond.items()}"


TRAJECTORY = [
    Mutant(
        "LCM: one level a step, whatever the skip",
        LCM,
        "after = (i + self.skip).clamp_max(last)",
        "after = (i + 1).clamp_max(last)",
        method("lcm"),
    ),
    Mutant(
        "LCM: the paper's scale, one less",
        LCM,
        'scale = low + (high - low) * self.uniform(batch.rows, "guidance")',
        'scale = low - 1 + (high - low) * self.uniform(batch.rows, "guidance")',
        method("lcm"),
    ),
    Mutant(
        "LCM: the student is not told the scale",
        LCM,
        "told = steered if self.told else cond",
        "told = cond",
        method("lcm"),
    ),
    Mutant(
        "LCM: the data's spread in the boundary, as EDM has it",
        "functional/consistency.py",
        "return sigma_data**2 / total, (scaled / total).sqrt()",
        "return sigma_data**2 / total, sigma_data * (scaled / total).sqrt()",
        method("lcm"),
    ),
    Mutant(
        "consistency training: fresh noise at the lower level",
        CONSISTENCY_TRAINING,
        "x_next = x + expand_like(lower, x) * noise",
        "x_next = x + expand_like(lower, x) * self.noise_like(x)",
        method("consistency_training"),
    ),
    Mutant(
        "consistency training: the weight of a level alone",
        CONSISTENCY_TRAINING,
        "return 1 / (drawn.sigma - drawn.lower)",
        "return 1 / drawn.sigma",
        method("consistency_training"),
    ),
]


OWN = [
    Mutant(
        "own: the number of rows without a row's own weight",
        "functional/bounds.py",
        "count = count - (1 - own) * (count > 1).to(sigma)",
        "count = count - 0.0",
        method("vardiu", "rows_own_weight"),
    ),
    Mutant(
        "own: the weight of another row",
        "functional/bounds.py",
        "exponents[index, index % rows] +=",
        "exponents[index, (index + 1) % rows] +=",
        method("vardiu", "rows_own_weight"),
    ),
    Mutant(
        "own: reported with the weight of training",
        BOUND,
        "if self.shared:  # with weights of one, whatever those of training are",
        "if self.shared and self.own == 1:",
        method("vardiu", "is_a_bound_whatever"),
    ),
    Mutant(
        "bank: without the row's own sample",
        "methods/banked.py",
        "return torch.cat([drawn.x, self.anchored(drawn.call, z, tiled)])",
        "return torch.cat([0 * drawn.x, self.anchored(drawn.call, z, tiled)])",
        method("banked", "large_bank or class"),
    ),
    Mutant(
        "bank: the fake at large levels",
        "methods/banked.py",
        "small = sigma < self.above",
        "small = sigma > self.above",
        method("banked", "large_bank"),
    ),
    Mutant(
        "bank: classes mixed",
        "methods/banked.py",
        "if same is not None:\n            same = same.repeat(1, self.bank + 1)",
        "if same is not None:\n            same = None",
        method("banked", "class"),
    ),
    Mutant(
        "codes: the intervals not of equal probability",
        "nn/mlp.py",
        "inner = torch.arange(1, codes, dtype=torch.float64) / codes",
        "inner = torch.arange(1, codes, dtype=torch.float64) / (codes + 1)",
        ("tests/test_problems.py", "-k", "codes_cut"),
    ),
]


SIGNS = [
    Mutant(
        "sign: VarDiU",
        VARDIU,
        "value = weight * (self.temperature * entropy - surrogate(x, direction))",
        "value = weight * (self.temperature * entropy + surrogate(x, direction))",
        contract(f"{FIXED} and vardiu"),
    ),
    Mutant(
        "sign: VarDiU, weighted posterior",
        VARDIU,
        "value = own * entropy - weight * surrogate(x, direction)",
        "value = own * entropy + weight * surrogate(x, direction)",
        method("vardiu"),
    ),
    Mutant(
        "sign: Diff-Instruct",
        DIFF_INSTRUCT,
        "value = surrogate(x, direction).mean()",
        "value = -surrogate(x, direction).mean()",
        contract(f"{DESCENT} and diff_instruct"),
    ),
    Mutant(
        "sign: Diff-Instruct's fake",
        DIFF_INSTRUCT,
        'return Loss(error, {"error": error.detach()})',
        'return Loss(-error, {"error": error.detach()})',
        method("diff_instruct"),
    ),
    Mutant(
        "sign: DMD2's adversarial loss",
        DMD2,
        "value = value + self.adversarial_weight * error",
        "value = value - self.adversarial_weight * error",
        method("dmd2"),
    ),
    Mutant(
        "sign: DMD2's classifier",
        DMD2,
        "return Loss(loss.value + self.classifier_weight * error, info)",
        "return Loss(loss.value - self.classifier_weight * error, info)",
        method("dmd2"),
    ),
    Mutant(
        "sign: consistency distillation",
        SELF_CONSISTENCY,
        "value = (self.weighting(drawn) * self.distance(difference)).mean()",
        "value = -(self.weighting(drawn) * self.distance(difference)).mean()",
        method("consistency"),
    ),
    Mutant(
        "sign: EMD",
        EMD,
        "direction = -expand_like(scale, eps)",
        "direction = expand_like(scale, eps)",
        method("emd", "chains_moments"),
    ),
    Mutant(
        "factor: EMD, what a chain takes",
        EMD,
        " / gain(row.steps, row.gamma_eps)",
        "",
        method("emd", "is_diff_instruct"),
    ),
    Mutant(
        "place: EMD, the student at the end of its chain",
        EMD,
        "self.generator(end.z, **cond)",
        "self.generator(drawn.z, **cond)",
        method("emd", "chains_moments"),
    ),
    Mutant(
        "order: a chain's latent is moved from the step's own start",
        CHAINS,
        "z = (1 - gamma_z) * z + pull",
        "z = z + pull",
        method("emd", "gaussian_chain"),
    ),
    Mutant(
        "guard: a chain's latent is moved as far as its drift says",
        CHAINS,
        "(longest / length).clamp_max(1.0)",
        "(longest / length).clamp_min(1.0)",
        method("emd", "no_further"),
    ),
    Mutant(
        "noise: a chain of states keeps the noise of its start",
        CHAINS,
        "(x + s * eps, x) if states",
        "(x + s * eps, x + s * eps) if states",
        method("emd", "latent_stays"),
    ),
    Mutant(
        "sign: SDS",
        SDS,
        "* surrogate(x, scores)).mean())",
        "* surrogate(x, -scores)).mean())",
        method("sds", "closed_form"),
    ),
    Mutant(
        "factor: VSD, a weight of noises",
        SDS,
        "return sigma * self.weight(sigma)",
        "return self.weight(sigma)",
        method("sds", "one_particle"),
    ),
    Mutant(
        "place: SDI shows the teacher the inversion",
        SDS,
        "if not self.steps:",
        "if self.steps:",
        method("sds", "near_the_mode"),
    ),
    Mutant(
        "factor: SDS, a level of the difference of noises",
        SDS,
        "(sigma * self.weight(sigma) * surrogate",
        "(self.weight(sigma) * surrogate",
        method("sds", "closed_form"),
    ),
    Mutant(
        "place: SDS denoises the sample itself",
        SDS,
        "self.teacher(x_t, sigma",
        "self.teacher(x, sigma",
        method("sds", "noised_twice"),
    ),
    Mutant(
        "scale: a restorer's input",
        RESTORER,
        "return self.denoiser(self.gain * z,",
        "return self.denoiser(z,",
        method("d3sr", "step_of_the_paper"),
    ),
    Mutant(
        "border: edges that zeros draw",
        PERCEPTION,
        'padded = F.pad(x, (1, 1, 1, 1), mode="replicate")',
        "padded = F.pad(x, (1, 1, 1, 1))",
        method("d3sr", "edges_of_ramps"),
    ),
    Mutant(
        "sign: D3SR's discriminator",
        D3SR,
        "fake, real = self.logits([z, drawn.clean]",
        "real, fake = self.logits([z, drawn.clean]",
        method("d3sr", "little_noise_only"),
    ),
    Mutant(
        "noise: D3SR's discriminator reads clean samples",
        D3SR,
        "z_t = z + expand_like(sigma, z) * self.noise_like",
        "z_t = z + 0 * expand_like(sigma, z) * self.noise_like",
        method("d3sr", "reads_noisy_samples"),
    ),
    Mutant(
        "factor: OSEDiff's squared distance",
        OSEDIFF,
        "self.score_weight * 2 / z[0].numel()",
        "self.score_weight / z[0].numel()",
        method("d3sr", "direction_of_osediff"),
    ),
    Mutant(
        "stream: every row is degraded as the first",
        "data/degradations.py",
        "small = [degradation(row, seed, first + i)",
        "small = [degradation(row, seed, first + 0 * i)",
        ("tests/test_restoration.py", "-k", "degraded_alike"),
    ),
    Mutant(
        "place: tiles without a margin",
        "students/tiles.py",
        "place = torch.arange(self.side, dtype=torch.float32) - self.margin",
        "place = torch.arange(self.side, dtype=torch.float32)",
        ("tests/test_restoration.py", "-k", "leave_no_trace"),
    ),
    Mutant(
        "sign: ADM's discriminator",
        ADM,
        "generated, real_logits = logits.chunk",
        "real_logits, generated = logits.chunk",
        method("adm", "game_of_gaussians"),
    ),
    Mutant(
        "place: ADM's logits at the level before the step",
        ADM,
        "logits = self.logits(torch.cat(ends), torch.cat([lower, lower]), both)",
        "logits = self.logits(torch.cat(ends), torch.cat([sigma, sigma]), both)",
        method("adm", "laws_of_the_closed_form"),
    ),
    Mutant(
        "gradient: ADM's student goes around the fake",
        ADM,
        "        if self.detach_fake:",
        "        if True:",
        method("adm", "through_the_fake"),
    ),
    Mutant(
        "sign: ADP's student",
        ADP,
        'value = hinge_generator(self.logits(x, pairs.cond, step, "student")).mean()',
        'value = -hinge_generator(self.logits(x, pairs.cond, step, "student")).mean()',
        method("adm", "hinge_game_on_pairs"),
    ),
    Mutant(
        "place: ADP shows noise alone to all rows",
        ADP,
        '"pure") < self.row.pure',
        '"pure") < 1.0',
        method("adm", "between_or_noise_alone"),
    ),
    Mutant(
        "sign: f-distill's ratio",
        CRITICS,
        "error = softplus_discriminator(real, generated).mean()",
        "error = softplus_discriminator(generated, real).mean()",
        method("f_distill", "raises_the_logits_of_data"),
    ),
    Mutant(
        "factor: f-distill forgets its weight",
        F_DISTILL,
        "        if self.head is None:",
        "        if True:",
        method("f_distill", "weighted_by_the_mean_logit"),
    ),
    Mutant(
        "factor: Jensen-Shannon's weight is the softened reverse one",
        DIVERGENCES,
        "lambda t: 0.5 * t.sigmoid()",
        "lambda t: 0.5 * (-t).sigmoid()",
        method("f_distill", "jensen_shannon"),
    ),
    Mutant(
        "factor: a ratio without its square",
        DIVERGENCES,
        "lambda t: 2 * (2 * t).exp()",
        "lambda t: 2 * t.exp()",
        method("f_distill", "chi_squared"),
    ),
    Mutant(
        "sign: DiffRatio's slope",
        DIFF_RATIO,
        "direction = -expand_like(self.weight(sigma), x) * slope",
        "direction = expand_like(self.weight(sigma), x) * slope",
        method("diff_ratio", "slope_of_its_logit"),
    ),
    Mutant(
        "sign: DiffRatio's discriminator",
        CRITICS,
        "error = softplus_discriminator(real, generated).mean()",
        "error = softplus_discriminator(generated, real).mean()",
        method("diff_ratio", "teachers_samples"),
    ),
    Mutant(
        "sign: regression",
        REGRESSION,
        "value = pseudo_huber(difference / self.unit, self.softness).mean()",
        "value = -pseudo_huber(difference / self.unit, self.softness).mean()",
        contract(f"{DESCENT} and regression"),
    ),
    Mutant(
        "sign: denoising",
        "methods/denoising.py",
        "return Loss(denoising(",
        "return Loss(-denoising(",
        method("denoising"),
    ),
]

DROPPED = [
    Mutant(
        "condition to the teacher: VarDiU",
        VARDIU,
        "denoised = self.teacher(x_t, sigma, **cond)",
        "denoised = self.teacher(x_t, sigma)",
        contract(f"{CONDITIONS} and vardiu"),
    ),
    Mutant(
        "condition to the posterior: VarDiU",
        BOUND,
        "r = self.posterior(x_t, sigma, **cond)\n        z = z",
        f"r = self.posterior(x_t, sigma, {CONSTANT})\n        z = z",
        contract(f"{CONDITIONS} and vardiu"),
    ),
    Mutant(
        "condition to the student: VarDiU",
        VARDIU,
        "x_0 = x = self.generator(z, **cond)",
        f"x_0 = x = self.generator(z, {CONSTANT})",
        contract(f"{CONDITIONS} and vardiu"),
    ),
    Mutant(
        "conditions of the minibatch mixture: VarDiU",
        BOUND,
        "same_condition(cond, len(x_0))",
        "None",
        method("vardiu", "condition or class"),
    ),
    Mutant(
        "conditions of opposite noise misaligned: VarDiU",
        VARDIU,
        "torch.cat([value, value]) for name",
        "value.repeat_interleave(2, 0) for name",
        contract(f"{CONDITIONS} and vardiu"),
    ),
    Mutant(
        "condition to the teacher: Diff-Instruct",
        DIFF_INSTRUCT,
        "real = self.teacher(x_t, sigma, **cond)",
        "real = self.teacher(x_t, sigma)",
        contract(f"{CONDITIONS} and diff-instruct"),
    ),
    Mutant(
        "condition to the fake: Diff-Instruct's student",
        DIFF_INSTRUCT,
        "mean = self.fake(x_t, sigma, **cond) + offset",
        f"fake = self.fake(x_t, sigma, {CONSTANT})",
        contract(f"{CONDITIONS} and diff-instruct"),
    ),
    Mutant(
        "condition to the fake: Diff-Instruct's fake",
        DIFF_INSTRUCT,
        "denoising(self.fake(x_t, sigma, **cond), x, weight)",
        f"denoising(self.fake(x_t, sigma, {CONSTANT}), x, weight)",
        contract(f"{CONDITIONS} and diff-instruct"),
    ),
    Mutant(
        "condition to the student: Diff-Instruct",
        DIFF_INSTRUCT,
        "self.matching(self.generator(drawn.z, **cond), cond, step)",
        f"self.matching(self.generator(drawn.z, {CONSTANT}), cond, step)",
        contract(f"{CONDITIONS} and diff-instruct"),
    ),
    Mutant(
        "condition to the head's fake: DMD2",
        DMD2,
        "self.head(self.fake, y_t, sigma, **cond)",
        f"self.head(self.fake, y_t, sigma, {CONSTANT})",
        contract(f"{CONDITIONS} and dmd2"),
    ),
    Mutant(
        "condition to the student: DMD2",
        DMD2,
        "x = self.generator.call(drawn.call, drawn.z, **cond)",
        f"x = self.generator.call(drawn.call, drawn.z, {CONSTANT})",
        contract(f"{CONDITIONS} and dmd2"),
    ),
    Mutant(
        "condition to the teacher: consistency distillation",
        SELF_CONSISTENCY,
        "            arrives=False,\n            **cond,\n",
        "            arrives=False,\n",
        contract(f"{CONDITIONS} and consistency"),
    ),
    Mutant(
        "condition to the student: regression",
        REGRESSION,
        "self.generator(drawn.z, **drawn.cond)",
        "self.generator(drawn.z, **{k: 0 * v for k, v in drawn.cond.items()})",
        contract(f"{CONDITIONS} and regression"),
    ),
    Mutant(
        "pairs' conditions misaligned where they are drawn",
        "samplers/pairs.py",
        "value[rows] for name, value in",
        "value.roll(1, 0)[rows] for name, value in",
        method("regression", "rows"),
    ),
    Mutant(
        "pairs' conditions misaligned where they are made",
        PAIRS,
        '**{f"cond.{k}": v.cpu() for k, v in cond.items()}}',
        '**{f"cond.{k}": v.flip(0).cpu() for k, v in cond.items()}}',
        method("regression", "artefact"),
    ),
]

NETWORKS = [
    Mutant(
        "student detached: VarDiU",
        VARDIU,
        "        x_t = x + expand_like(sigma, x) * noise\n        weight = self.weight(sigma)",
        "        x_t = x.detach() + expand_like(sigma, x) * noise\n        weight = self.weight(sigma)",
        contract(f"{FIXED} and vardiu"),
    ),
    Mutant(
        "student detached: Diff-Instruct",
        DIFF_INSTRUCT,
        "value = surrogate(x, direction).mean()",
        "value = surrogate(x.detach(), direction).mean() + 0 * x.sum()",
        contract("gradients_reach and diff-instruct"),
    ),
    Mutant(
        "student detached: DMD2's adversarial loss",
        DMD2,
        'self.logits(x, cond, step, "adversarial")',
        'self.logits(x.detach(), cond, step, "adversarial")',
        method("dmd2"),
    ),
    Mutant(
        "student detached: regression",
        REGRESSION,
        "difference = found - known",
        "difference = found.detach() + 0 * found - known",
        contract("gradients_reach and regression"),
    ),
    Mutant(
        "teacher and fake swapped: Diff-Instruct",
        DIFF_INSTRUCT,
        "difference = score_difference(own, real, sigma)",
        "difference = score_difference(real, own, sigma)",
        contract(f"{DESCENT} and diff_instruct"),
    ),
    Mutant(
        "teacher and fake swapped: the divisor of DMD",
        DIFF_INSTRUCT,
        "cond) / self.size(real, x)",
        "cond) / self.size(mean, x)",
        method("diff_instruct"),
    ),
    Mutant(
        "data and samples swapped: DMD2's classifier",
        DMD2,
        "error = softplus_discriminator(real, fake).mean()",
        "error = softplus_discriminator(fake, real).mean()",
        method("dmd2"),
    ),
    Mutant(
        "stale target: it never moves",
        "training/memory.py",
        "mine.lerp_(its.to(mine.dtype), share)",
        "mine.lerp_(its.to(mine.dtype), 0.0)",
        ("tests/test_memory.py",),
    ),
    Mutant(
        "resume: fresh moments in the stage that goes on",
        TRAINER,
        'optimizer.load_state_dict(moments_divided_as(optimizer, state["optimizers"][name]))',
        "pass",
        ("tests/test_stopping.py", "-k", "recipe_resumes"),
    ),
    Mutant(
        "waits: constants of features are copied to a card in each step",
        "metrics/features.py",
        "placed(self.phase, flat)",
        "self.phase.to(flat)",
        contract("wait_for_an_accelerator and rdd"),
    ),
    Mutant(
        "waits: a constant is sent to a card at each call",
        "functional/tensors.py",
        "if key not in there:",
        "if True:",
        ("tests/test_waits.py", "-k", "sent_to_an_accelerator"),
    ),
    Mutant(
        "waits: the levels of a step are copied to a card from pageable memory",
        "methods/consistency_training.py",
        "return sent(levels.to(self.like.dtype), self.like.device)",
        "return levels.to(self.like)",
        contract("wait_for_an_accelerator and consistency-training"),
    ),
    Mutant(
        "economy: what is differentiated forward runs its blocks again",
        "training/economy.py",
        "trained = [name for name in objective.trained if name in backward]",
        "trained = objective.trained",
        ("tests/test_bigger.py", "-k", "differentiated_forward"),
    ),
    Mutant(
        "economy: the start of a flow map has it run its blocks again in the next stage",
        "methods/freeflow/__init__.py",
        "objective.forward_mode = config.forward_mode",
        "pass",
        ("tests/test_bigger.py", "-k", "differentiated_forward"),
    ),
    Mutant(
        "economy: all refuses a discriminator's head",
        "training/economy.py",
        'if function is recompute and words(text) == ["all"]:',
        "if False:",
        ("tests/test_bigger.py", "-k", "leaves_out"),
    ),
    Mutant(
        "resume: a run of a GPU goes on on the host, with other random numbers",
        "training/device_kind.py",
        "if begun != now:",
        "if False:",
        ("tests/test_stopping.py", "-k", "another_kind_of_device"),
    ),
    Mutant(
        "resume: a lost student of a GPU's run is set aside before it is refused",
        "runs/sharing.py",
        "if damaged or not finished:",
        "if not finished:",
        ("tests/reported/test_lost_models.py", "-k", "another_kind_of_device"),
    ),
    Mutant(
        "resume: the noise of a run that was not stopped begins again",
        TRAINER,
        'self.objective.streams.load_state_dict(state["random"]["streams"])',
        "pass",
        ("tests/test_stopping.py", "-k", "recipe_resumes"),
    ),
    Mutant(
        "resume: the data are begun again",
        TRAINER,
        'batches.load_state_dict(state["batches"])',
        "pass",
        ("tests/test_stopping.py", "-k", "not recipe_resumes"),
    ),
    Mutant(
        "stale target: the trainer forgets",
        TRAINER,
        "self.objective.remember(drawn, self.step)",
        "pass",
        ("tests/test_memory.py",),
    ),
    Mutant(
        "stale target: the network in its place",
        CONSISTENCY,
        "self.answer(self.target, x_next, lower, left - 1, cond)",
        "self.answer(self.network('generator'), x_next, lower, left - 1, cond)",
        method("consistency"),
    ),
    Mutant(
        "progressive: the teacher's last answer for the target",
        LESSONS,
        "target = step_target(x_t, levels[0], x_end, levels[-1])",
        "target = list(trajectory(teacher, x_t, levels))[-2]\n    target = teacher(target, levels[-2])",
        method("progressive"),
    ),
    Mutant(
        "progressive: condition to the teacher",
        LESSONS,
        "asked = partial(teacher, **cond)",
        "asked = teacher",
        contract(f"{CONDITIONS} and progressive"),
    ),
    Mutant(
        "progressive: a lesson without the second slope",
        LESSONS,
        "levels, correct=correct, arrives=arrives)",
        "levels, arrives=arrives)",
        method("progressive", "heuns"),
    ),
    Mutant(
        "progressive: students are asked for a slope",
        PROGRESSIVE,
        "first = stride > 1 and calls * stride == config.grid",
        "first = stride > 1",
        method("progressive", "heuns"),
    ),
    Mutant(
        "progressive: the teacher's answers are learned after a step",
        PROGRESSIVE,
        "first = stride > 1 and calls * stride == config.grid",
        "first = calls * stride == config.grid",
        method("progressive", "heuns"),
    ),
    Mutant(
        "progressive: the student of another run is asked for a slope",
        PROGRESSIVE,
        'slope = config.solver == "heun" and not problem.networks.begins_elsewhere',
        'slope = config.solver == "heun"',
        method("progressive", "no_slope"),
    ),
    Mutant(
        "progressive: levels of half the grid",
        PROGRESSIVE,
        "levels = grid[:: config.grid // (calls * stride)]",
        "levels = grid[: calls * stride + 1] * (grid[: calls * stride + 1] > grid[calls * stride])",
        method("progressive", "halve_one_grid"),
    ),
    Mutant(
        "progressive: the first teacher teaches every stage",
        PROGRESSIVE,
        "teacher, network = trained.network, trained.network.trainable_copy()",
        "network = trained.network.trainable_copy()",
        method("progressive", "halve_one_grid"),
    ),
    Mutant(
        "stream: a batch that was killed goes on with the noise of other places",
        "runs/restoring.py",
        "noise = RowNoise([subjects.seed_of(place) for place in places])",
        "noise = RowNoise([subjects.seed_of((i, 0)) for i in range(len(places))])",
        ("tests/test_restore.py", "-k", "bit_for_bit or gone_on_with"),
    ),
    Mutant(
        "progressive: the weight of the level that is arrived at",
        PROGRESSIVE,
        "return Loss((self.weight(drawn.sigma) * error).mean(), info)",
        "return Loss((self.weight(1 + drawn.end) * error).mean(), info)",
        method("progressive", "weighs"),
    ),
    Mutant(
        "ddil: noised data in the place of paths",
        STATES,
        "torch.where(expand_like(mine, states), states.to(shown.x_t), shown.x_t),",
        "torch.where(expand_like(mine, states), shown.x_t, shown.x_t),",
        method("ddil", "cannot_be_right"),
    ),
    Mutant(
        "ddil: the state of the place before",
        STATES,
        "states = self.paths(objective, source, n, cond)[every, k]",
        "states = self.paths(objective, source, n, cond)[every, (k - 1).clamp_min(0)]",
        method("ddil", "cannot_be_right"),
    ),
    Mutant(
        "ddil: the conditions of the batch for kept states",
        STATES,
        "return self.states.rows[rows], {name: value[rows] for name, value in kept.items()}",
        "return self.states.rows[rows], {name: value[rows - 1] for name, value in kept.items()}",
        method("ddil", "kept_states"),
    ),
    Mutant(
        "ddil: paths with dropout",
        STATES,
        "    network.eval()\n    try:",
        "    try:",
        method("ddil", "without_dropout"),
    ),
    Mutant(
        "ddil: a threshold without its own noise",
        "denoisers/reflected.py",
        "return thresholded(self.denoiser(x_t, sigma, **cond), self.bound, self.quantile)",
        "return self.denoiser(x_t, sigma, **cond)",
        method("ddil", "threshold"),
    ),
    Mutant(
        "rdd: one softmax over the positions of all images",
        RELATIONAL,
        "(x[rows] @ x.T / temperature).view(-1, b, a).log_softmax(2) for x in (t, s)",
        "(x[rows] @ x.T / temperature).log_softmax(1).view(-1, b, a) for x in (t, s)",
        ("tests/test_relational.py",),
    ),
    Mutant(
        "rdd: the student sharpened as the teacher",
        RELATIONAL,
        "(target - student.log_softmax(1))",
        "(target - (student / sharpness).log_softmax(1))",
        ("tests/test_relational.py", "-k", "sharpened"),
    ),
    Mutant(
        "rdd: positions that mix channels",
        RELATIONAL,
        "dim=1).transpose(1, 2)",
        "dim=1).reshape(len(maps), -1, maps.shape[1])",
        ("tests/test_relational.py", "-k", "keep_their"),
    ),
    Mutant(
        "rdd: the memory without the batch's positions",
        RDD,
        "self.memory.spread(row.contrast, coming)",
        "self.memory.spread(row.contrast, coming[:0])",
        contract("gradients_reach and rdd"),
    ),
    Mutant(
        "queue: coming rows read from elsewhere",
        "training/memory.py",
        "since = (places - start) % size",
        "since = places % size",
        method("rdd", "spread"),
    ),
    Mutant(
        "every network free in every phase: the trainer",
        TRAINER,
        "with only(self.objective, self.due(phase)) as free:",
        "with only(self.objective, self.objective.trained) as free:",
        contract("trainer_step and (diff-instruct or dmd2)"),
    ),
    Mutant(
        "every network free in every phase: `only`",
        "training/objective.py",
        "if parameter.requires_grad and id(parameter) not in free:",
        "if False and id(parameter) not in free:",
        contract("gradients_reach and (diff-instruct or dmd2)"),
    ),
    Mutant(
        "average taken before the step",
        TRAINER,
        """            optimizer.step()
            self.updates[name] += 1
            if name == "generator":
                self.average.update(
                    self.objective.generator, samples * self.objective.streams.world
                )
""",
        """            if name == "generator":
                self.average.update(
                    self.objective.generator, samples * self.objective.streams.world
                )
            optimizer.step()
            self.updates[name] += 1
""",
        contract("trainer_step and (diff-instruct or dmd2)"),
    ),
]

SETTINGS = [
    Mutant(
        "weight ignored: VarDiU",
        VARDIU,
        "weight = self.weight(sigma)\n        if",
        "weight = torch.ones_like(sigma)\n        if",
        contract("weight and vardiu"),
    ),
    Mutant(
        "posterior's weight ignored: VarDiU",
        VARDIU,
        "own = self.posterior_weight(sigma)",
        "own = torch.ones_like(sigma) * weight",
        contract("weight and vardiu"),
    ),
    Mutant(
        "weight ignored: Diff-Instruct",
        DIFF_INSTRUCT,
        "direction = expand_like(factor, x) * difference",
        "direction = difference",
        contract("weight and diff-instruct"),
    ),
    Mutant(
        "weight ignored: consistency distillation",
        SELF_CONSISTENCY,
        "value = (self.weighting(drawn) * self.distance(difference)).mean()",
        "value = self.distance(difference).mean()",
        contract("weight and consistency"),
    ),
    Mutant(
        "regression's weight ignored: Diff-Instruct",
        DIFF_INSTRUCT,
        "return Loss(loss.value + self.regression_weight * distance, info)",
        "return Loss(loss.value + distance, info)",
        method("diff_instruct"),
    ),
    Mutant(
        "of two that write a new file at once both do",
        "storage/files.py",
        "        if fresh:\n            claim(path)\n",
        "",
        ROUGH,
    ),
    Mutant(
        "samples stay where their picture fails",
        "cli/sample.py",
        "path.with_suffix(suffix).unlink(missing_ok=True)",
        "pass",
        ROUGH,
    ),
    Mutant(
        "a preset of a settings file may be a path",
        "runs/task.py",
        'if preset == ".." or Path(preset).name != preset',
        "if False",
        ROUGH,
    ),
    Mutant(
        "a folder's name may be no text",
        "storage/run_folder.py",
        "        refuse_odd_name(self.path)\n",
        "",
        ROUGH,
    ),
    Mutant(
        "an infinite number is one",
        "storage/run_folder.py",
        "return number and math.isfinite(value)",
        "return number",
        ROUGH,
    ),
    Mutant(
        "a training ends where nobody reads",
        "cli/console.py",
        "console = Output(emoji=False)",
        "console = __import__('rich.console').console.Console(emoji=False)",
        ROUGH,
    ),
    Mutant(
        "files are for all to read",
        "storage/files.py",
        "UMASK = os.umask(0o077)",
        "UMASK = os.umask(0o077) * 0",
        ROUGH,
    ),
    Mutant(
        "a lattice in any number of dimensions",
        "training/streams.py",
        "if k <= LATTICE_DIMENSIONS:",
        "if k:",
        LATTICE,
    ),
    Mutant(
        "a Latin hypercube of one order in all dimensions",
        "functional/tensors.py",
        "cells = uniform.argsort(dim=0).double()",
        "cells = uniform[:, :1].argsort(dim=0).double()",
        ("tests/test_functional.py",),
    ),
    Mutant(
        "a student is measured by all classes alike",
        "problems/base.py",
        "if measured and label is not None:",
        "if False:",
        SHARES,
    ),
    Mutant(
        "what is measured is in the order of its classes",
        "problems/base.py",
        'return {"label": label[mixed * len(label) // n]}',
        'return {"label": label[index * len(label) // n]}',
        SHARES,
    ),
    Mutant(
        "FD-loss draws all classes alike",
        "methods/fd_loss/__init__.py",
        "problem.data.free(config.batch, context.seed, shares=True)",
        "problem.data.free(config.batch, context.seed)",
        SHARES,
    ),
    Mutant(
        "the smallest divisor is of no unit: Diff-Instruct",
        DIFF_INSTRUCT,
        "self.FLOOR * self.unit) * self.unit",
        "self.FLOOR) * self.unit",
        UNITS,
    ),
    Mutant(
        "the regression is of no unit",
        REGRESSION,
        "pseudo_huber(difference / self.unit",
        "pseudo_huber(difference",
        UNITS,
    ),
    Mutant(
        "a network is told levels of no unit",
        "denoisers/preconditioned.py",
        "(sigma / self.unit).log() / 4",
        "sigma.log() / 4",
        UNITS,
    ),
    Mutant(
        "where a bank begins is of no unit",
        "settings/grounds.py",
        '    AnchorSettings: ("bank_above",),\n',
        "",
        UNITS,
    ),
    Mutant(
        "levels far above the mean are lost: LogNormal",
        "denoisers/levels.py",
        "sign = -1.0 if places.sum() > 0 else 1.0",
        "sign = 1.0",
        ("tests/test_noise.py",),
    ),
    Mutant(
        "a sample that is alone goes with its own weight",
        "functional/bounds.py",
        "torch.where(count == 1, 0.0, less).to(exponents)",
        "less",
        ("tests/test_functional.py",),
    ),
    Mutant(
        "levels of a lattice not shuffled",
        "training/objective.py",
        "places = self._shared_uniform(total, order).argsort()",
        "places = self._shared_uniform(total, order).argsort().sort().values",
        LATTICE,
    ),
    Mutant(
        "levels of a lattice without jitter",
        "training/objective.py",
        "return self.streams.own_rows((places + self._shared_uniform(total, role)) / total)",
        "return self.streams.own_rows((places + 0.5) / total)",
        LATTICE,
    ),
    Mutant(
        "learning rates swapped: the student's and the others'",
        "settings/build.py",
        'return Optimisation({"generator": student, **rows}',
        'return Optimisation({"generator": next(iter(rows.values()), student), **rows}',
        contract("own_row and (vardiu-gaussian or diff-instruct)"),
    ),
    Mutant(
        "the last stage: of one stage where a start by pairs came before",
        "settings/build.py",
        "of = 2 if pairs is not None and pairs.pairs else 1",
        "of = 1",
        ("tests/test_events.py", "-k", "of_how_many_stages"),
    ),
    Mutant(
        "a bake-off's dry run: arms without a price are not counted",
        "comparison/plan.py",
        "for name in unpriced(bake, planned, teacher):\n            steps",
        "for name in ():\n            steps",
        ("tests/test_bakeoff.py", "-k", "dry_run_trains"),
    ),
    Mutant(
        "a bake-off: a finished run of another rate is the arm's own",
        "comparison/plan.py",
        'if k.startswith("method.") and k != STEPS}',
        'if k == "method.name"}',
        ("tests/test_bakeoff.py", "-k", "other_settings"),
    ),
    Mutant(
        "learning rates swapped: DMD2's head and fake",
        "settings/build.py",
        'getattr(row, f"{name}_optimizer")',
        'getattr(row, f"{name}_optimizer".replace("head", "fake"))',
        contract("own_row and dmd2"),
    ),
    Mutant(
        "a setting dropped: VarDiU's particles",
        VARDIU_STAGES,
        "particles=config.particles,",
        "",
        contract("hands_every_setting and vardiu"),
    ),
    Mutant(
        "a setting dropped: Diff-Instruct's weight",
        DIFF_INSTRUCT_SETTINGS,
        '"weight": build.weight(config.weight),',
        "",
        contract("hands_every_setting and diff_instruct"),
    ),
    Mutant(
        "a setting dropped: DMD2's classifier weight",
        DMD2,
        "classifier_weight=config.classifier_weight,",
        "",
        contract("hands_every_setting and dmd2"),
    ),
    Mutant(
        "a setting dropped: the grid of consistency distillation",
        CONSISTENCY,
        "grid=config.grid,",
        "",
        contract("hands_every_setting and consistency"),
    ),
    Mutant(
        "Bounded with scale in place of its square",
        "settings/build.py",
        "return sigma.square() / (sigma.square() + self.scale**2)",
        "return sigma.square() / (sigma.square() + self.scale)",
        ("tests/test_weights.py",),
    ),
    Mutant(
        "the frame's log-density without (d - k) log v",
        "students/framed.py",
        "log_det = total.log().sum(2) + (self.d - self.k) * v.log()",
        "log_det = total.log().sum(2)",
        ("tests/test_posterior.py",),
    ),
    Mutant(
        "biased in place of unbiased MMD^2",
        "metrics/mmd.py",
        "within_x = (means.xx.mean() * n - 1) / (n - 1)",
        "within_x = means.xx.mean()",
        ("tests/test_metrics.py", "-k", "mmd"),
    ),
]

PAIRED = [
    Mutant(
        "paired: the other arm less this one",
        "metrics/paired.py",
        "mine[seed] - theirs[seed]",
        "theirs[seed] - mine[seed]",
        paired(),
    ),
    Mutant(
        "paired: values in pairs by rank, not by seed",
        "metrics/paired.py",
        "[mine[seed] - theirs[seed] for seed in sorted(set(mine) & set(theirs))]",
        "[a - b for a, b in zip(mine.values(), theirs.values(), strict=False)]",
        paired(),
    ),
    Mutant(
        "paired: seeds of either arm",
        "metrics/paired.py",
        "sorted(set(mine) & set(theirs))",
        "sorted(set(mine))",
        paired(),
    ),
    Mutant(
        "paired: a quantile of the normal distribution",
        "metrics/paired.py",
        "float(student_t.ppf(0.975, n - 1))",
        "1.959964",
        paired(),
    ),
    Mutant(
        "paired: a one-sided quantile",
        "metrics/paired.py",
        "student_t.ppf(0.975, n - 1)",
        "student_t.ppf(0.95, n - 1)",
        paired(),
    ),
    Mutant(
        "paired: n degrees of freedom",
        "metrics/paired.py",
        "student_t.ppf(0.975, n - 1)",
        "student_t.ppf(0.975, n)",
        paired(),
    ),
    Mutant(
        "paired: the population's standard deviation",
        "metrics/paired.py",
        "statistics.stdev(found)",
        "statistics.pstdev(found)",
        paired(),
    ),
    Mutant(
        "paired: no root of n",
        "metrics/paired.py",
        "/ math.sqrt(n)",
        "/ n",
        paired(),
    ),
    Mutant(
        "paired: an interval of one seed",
        "metrics/paired.py",
        "if n > 1:",
        "if n > 0:",
        paired(),
    ),
    Mutant(
        "paired: no interval without a second seed",
        "metrics/paired.py",
        "half = math.inf",
        "half = 0.0",
        paired(),
    ),
    Mutant(
        "paired: better where the mean is lower",
        "metrics/paired.py",
        "if self.mean + self.half < 0:",
        "if self.mean < 0:",
        paired(),
    ),
    Mutant(
        "paired: worse where the mean is higher",
        "metrics/paired.py",
        '"worse" if self.mean - self.half > 0',
        '"worse" if self.mean > 0',
        paired(),
    ),
    Mutant(
        "paired: worse and better in each other's place",
        "metrics/paired.py",
        'return "better"\n        return "worse" if',
        'return "worse"\n        return "better" if',
        paired(),
    ),
    Mutant(
        "paired: the median for the mean",
        "metrics/paired.py",
        "statistics.fmean(found)",
        "statistics.median(found)",
        paired(),
    ),
    Mutant(
        "paired: series: the seed is a setting",
        "studio/library.py",
        '("seed", "device"',
        '("device"',
        paired("series"),
    ),
    Mutant(
        "paired: series: settings are not looked at",
        "studio/series.py",
        "json.dumps(settings[run.id], sort_keys=True, default=str)",
        '""',
        paired("series"),
    ),
    Mutant(
        "paired: series: the same seeds in one series",
        "studio/series.py",
        "() if len(seeds) == len(members) else",
        "() if seeds else",
        paired("series"),
    ),
]

STATED = [
    Mutant(
        "error: Fréchet, divided by n",
        "metrics/frechet.py",
        "error = influence.std().item() / math.sqrt(len(fake))",
        "error = influence.std().item() / len(fake)",
        errors("frechet"),
    ),
    Mutant(
        "error: kernel distance, divided by n",
        "metrics/frechet.py",
        "error = sample.std().item() / math.sqrt(blocks)",
        "error = sample.std().item() / blocks",
        errors("kernel"),
    ),
    Mutant(
        "error: MMD^2 without its factor 2",
        "metrics/mmd.py",
        "return 2 * math.sqrt(first.item())",
        "return math.sqrt(first.item())",
        errors("mmd"),
    ),
    Mutant(
        "error: MMD^2, divided by n",
        "metrics/mmd.py",
        "first = (means.xx - means.xy).var() / n + (means.yy - means.yx).var() / m",
        "first = (means.xx - means.xy).var() / n**2 + (means.yy - means.yx).var() / m**2",
        errors("mmd"),
    ),
    Mutant(
        "error: MMD^2 of one set only",
        "metrics/mmd.py",
        "first = (means.xx - means.xy).var() / n + (means.yy - means.yx).var() / m",
        "first = (means.yy - means.yx).var() / m",
        errors("mmd"),
    ),
    Mutant(
        "error: precision and density, divided by n",
        "metrics/neighbours.py",
        "return hits.double().std().item() / math.sqrt(len(hits))",
        "return hits.double().std().item() / len(hits)",
        errors("precision"),
    ),
    Mutant(
        "error: recall of a mean over reals",
        "metrics/neighbours.py",
        'about.metric("recall", recalled, _jackknife(without))',
        'about.metric("recall", recalled, _mean_error(recalled))',
        errors("recall"),
    ),
    Mutant(
        "error: recall and coverage without the jackknife's factor",
        "metrics/neighbours.py",
        "return math.sqrt((len(shares) - 1) * shares.var(correction=0).item())",
        "return math.sqrt(shares.var(correction=0).item())",
        errors("recall"),
    ),
    Mutant(
        "error: sliced transport without its derivative",
        TRANSPORT,
        "error = math.sqrt(variance) / (2 * max(value, 1e-12))",
        "error = math.sqrt(variance)",
        errors("sliced"),
    ),
    Mutant(
        "error: sliced transport without its factor 2",
        TRANSPORT,
        "error = math.sqrt(variance) / (2 * max(value, 1e-12))",
        "error = math.sqrt(variance) / max(value, 1e-12)",
        errors("sliced"),
    ),
    Mutant(
        "error: sliced transport of directions only",
        TRANSPORT,
        "variance = _influence(a, b, first).var().item() / len(x)\n"
        "    variance += _influence(b, a, second).var().item() / len(y)",
        "variance = 0.0",
        errors("sliced"),
    ),
    Mutant(
        "error: sliced transport of samples only",
        TRANSPORT,
        "variance += squares.var().item() / projections",
        "variance += 0.0",
        errors("sliced"),
    ),
    Mutant(
        "error: log-density, divided by n",
        "metrics/density.py",
        "error = values.std().item() / math.sqrt(len(values))",
        "error = values.std().item() / len(values)",
        errors("log_density"),
    ),
    Mutant(
        "error: modes, of true shares that are all alike likely",
        "metrics/shares.py",
        "weights = _posterior(weights, likely).mean(0)",
        "weights = weights",
        errors("modes"),
    ),
    Mutant(
        "error: modes, without the root",
        "metrics/shares.py",
        "variance.sum().clamp_min(0).sqrt().item()",
        "2 * variance.sum().clamp_min(0).item()",
        errors("modes"),
    ),
    Mutant(
        "error: classes, without the sum over them",
        "metrics/shares.py",
        "variance.sum().clamp_min(0).sqrt().item()",
        "variance.mean().clamp_min(0).sqrt().item()",
        errors("classes"),
    ),
    Mutant(
        "error: agreement, divided by n",
        "metrics/classes.py",
        "math.sqrt(share * (1 - share) / n)",
        "math.sqrt(share * (1 - share)) / n",
        errors("agreement"),
    ),
    Mutant(
        "error: a gradient's bias without its factor 2",
        GRADIENTS,
        "error / (2 * bias.clamp_min(1e-12))",
        "error / bias.clamp_min(1e-12)",
        errors("the_bias_of_a_gradient"),
    ),
    Mutant(
        "error: a gradient's bias without its derivative",
        GRADIENTS,
        "bias_error = torch.minimum(error / (2 * bias.clamp_min(1e-12)), error.sqrt())",
        "bias_error = error",
        errors("the_bias_of_a_gradient"),
    ),
    Mutant(
        "error: a gradient's bias without the factor 4",
        GRADIENTS,
        "along = 4 * (rows @ distance).square().sum()",
        "along = (rows @ distance).square().sum()",
        errors("the_bias_of_a_gradient"),
    ),
    Mutant(
        "error: a reference gradient, not divided by the blocks",
        GRADIENTS,
        "return mean, (stacked - mean) / math.sqrt(blocks * (blocks - 1))",
        "return mean, (stacked - mean) / math.sqrt(blocks - 1)",
        errors("reference"),
    ),
    Mutant(
        "error: a gradient's bias from a reference without error",
        GRADIENTS,
        "rows = torch.cat([(gradients - mean) / draws, spread])",
        "rows = torch.cat([(gradients - mean) / draws, 0 * spread])",
        errors("the_bias_of_a_gradient"),
    ),
    Mutant(
        "error: slack, divided by n",
        GRADIENTS,
        "float(stacked.std() / math.sqrt(repeats))",
        "float(stacked.std() / repeats)",
        errors("slack"),
    ),
    Mutant(
        "error: the bound, divided by n",
        DISTRIBUTED,
        "values.std() / math.sqrt(n)",
        "values.std() / n",
        errors("the_bound"),
    ),
    Mutant(
        "error: the probe, divided by n",
        "teachers/probe.py",
        "error, deviation = errors.mean().item(), (errors.std() / len(x) ** 0.5).item()",
        "error, deviation = errors.mean().item(), (errors.std() / len(x)).item()",
        errors("probe"),
    ),
]

ANCHOR = [
    Mutant(
        "anchor: its distance dropped",
        ANCHORED,
        "loss = self.bounded(drawn, x, sigma, noise, cond, self.gain * gap)",
        "loss = self.bounded(drawn, x, sigma, noise, cond, 0 * gap)",
        method("anchored"),
    ),
    Mutant(
        "anchor: its distance's sign",
        ANCHORED,
        "gap = x.detach() - drawn.x",
        "gap = drawn.x - x.detach()",
        method("anchored"),
    ),
    Mutant(
        "anchor: the fake trained on the student's samples",
        ANCHORED,
        "return Fakes(state, self.anchored(index, state, batch.cond), batch, index)",
        "return Fakes(state, self.generator.call(index, state, **batch.cond), batch, index)",
        method("anchored"),
    ),
    Mutant(
        "anchor: another latent",
        ANCHORED,
        "return network.call(index, state, **cond)",
        "return network.call(index, state.flip(0), **cond)",
        method("anchored"),
    ),
    Mutant(
        "anchor: conditions misaligned",
        ANCHORED,
        "return network.call(index, state, **cond)",
        "return network.call(index, state, **{k: v.flip(0) for k, v in cond.items()})",
        contract("test_conditions and anchored"),
    ),
    Mutant(
        "anchor: a held one moves at each step",
        LAGGING,
        "if self.since.value >= self.held or",
        "if self.since.value >= 1 or",
        method("anchored"),
    ),
    Mutant(
        "anchor: the student moves while the fake settles",
        LAGGING,
        "return passed >= 0 and passed % self.ratio == 0",
        "return passed % self.ratio == 0",
        method("anchored"),
    ),
    Mutant(
        "anchor: the noise of both signs is one",
        ANCHORED,
        "noise = torch.cat([noise, -noise])",
        "noise = torch.cat([noise, noise])",
        method("anchored"),
    ),
    Mutant(
        "anchor: nats without their half",
        LAGGING,
        "flatten(1).sum(1) / (2 * sigma.square())",
        "flatten(1).sum(1) / sigma.square()",
        method("anchored"),
    ),
]

FLOWS = [
    Mutant(
        "sign: FreeFlow's prediction moves away from the teacher",
        FREEFLOW,
        "error = (answer - denoised - along) / self.sigma_data",
        "error = (denoised + along - answer) / self.sigma_data",
        method("freeflow", "relaxes"),
    ),
    Mutant(
        "sign: FreeFlow's correction moves away from the teacher",
        FREEFLOW,
        "gap = (fake - real) / self.sigma_data",
        "gap = (real - fake) / self.sigma_data",
        method("freeflow", "closed_form"),
    ),
    Mutant(
        "dropped: FreeFlow's derivative",
        FREEFLOW,
        "(answer - denoised - along)",
        "(answer - denoised)",
        method("freeflow", "exact_map"),
    ),
    Mutant(
        "place: FreeFlow asks the teacher at the start",
        FREEFLOW,
        "self.teacher(moved(x_t, t, s, answer), s, **cond)",
        "self.teacher(x_t, t, **cond)",
        method("freeflow", "exact_map"),
    ),
    Mutant(
        "factor: FreeFlow's correction without the time of the noise",
        FREEFLOW,
        "return x, gap / expand_like(self.time(r), gap), t",
        "return x, gap, t",
        method("freeflow", "closed_form"),
    ),
    Mutant(
        "factor: FreeFlow's start asks for the state in place of the answer",
        FREEFLOW_START,
        "known = (x_s - ratio * x_t) / (1 - ratio)",
        "known = x_s",
        method("freeflow", "answers_what_the_teachers_paths"),
    ),
    Mutant(
        "share: FreeFlow's start asks for samples in the other rows",
        FREEFLOW_START,
        "sample = (on_way < self.share) |",
        "sample = (on_way > self.share) |",
        method("freeflow", "shares_of_the_rows"),
    ),
    Mutant(
        "share: FreeFlow's start has all rows start below",
        FREEFLOW_START,
        "torch.where(lower < self.below, between",
        "torch.where(lower < 1, between",
        method("freeflow", "shares_of_the_rows"),
    ),
    Mutant(
        "place: a path is its sample at every level",
        "samplers/pairs.py",
        "torch.stack(below, 1).to(z.dtype)",
        "torch.stack([below[-1]] * len(below), 1).to(z.dtype)",
        ("tests/test_samplers.py", "-k", "ends_of_corrected"),
    ),
    Mutant(
        "sign: mean shift moves away from the mean",
        MEAN_SHIFT,
        "surrogate(x, -shift)",
        "surrogate(x, shift)",
        method("mean_shift", "less_the_mean"),
    ),
    Mutant(
        "place: mean shift asks the denoiser at a noised point",
        MEAN_SHIFT,
        "return self.teacher(x, x.new_full",
        "return self.teacher(x + width * self.noise_like(x), x.new_full",
        method("mean_shift", "smoothed_once"),
    ),
    Mutant(
        "factor: the kernel's pull in the level, not in half its square",
        "samplers/products.py",
        "passed = (sigma.square() - target.square()) / (2 * width**2)",
        "passed = (sigma - target) / width**2",
        method("mean_shift", "decimals or stable"),
    ),
    Mutant(
        "sign: the product's kernel pushes",
        "samplers/products.py",
        "expand_like((-passed).exp(), x)",
        "expand_like(passed.exp(), x)",
        method("mean_shift", "stable"),
    ),
]


IDENTITY = [
    Mutant(
        "sid: alpha and one less alpha swapped",
        SID,
        "self.alpha * factor * dot(gap, gap)",
        "(1 - self.alpha) * factor * dot(gap, gap)",
        method("sid", "decimals"),
    ),
    Mutant(
        "sid: the noisy sample without its graph",
        SID,
        "x_t = x + expand_like(sigma, x) * noise",
        "x_t = (x + expand_like(sigma, x) * noise).detach()",
        method("sid", "half_that"),
    ),
    Mutant(
        "sid: the fake held",
        SID,
        "mean = self.fake(x_t, sigma, **cond) + offset",
        "mean = self.fake(x_t, sigma, **cond).detach() + offset",
        method("sid", "half_that"),
    ),
    Mutant(
        "sid: the divisor differentiated",
        SID,
        "self.size(real.detach(), x.detach())",
        "self.size(real, x)",
        method("sid", "weighted_and_divided"),
    ),
    Mutant(
        "sid: projected on the teacher's mean alone",
        SID,
        "factor * dot(gap, real - tempered(x, x_t, self.temperature))",
        "factor * dot(gap, real)",
        method("sid", "decimals"),
    ),
    Mutant(
        "sid: a teacher without a gradient is not looked for",
        "runs/distill.py",
        "if chosen.needs.gradient:",
        "if chosen.needs.pairs:",
        method("sid", "without_a_gradient"),
    ),
]

DISTANCES = [
    Mutant(
        "energy: a row meets itself",
        "functional/energy.py",
        "meets = ~torch.eye(len(a), dtype=torch.bool, device=a.device)",
        "meets = torch.ones(len(a), len(a), dtype=torch.bool, device=a.device)",
        method("energy", "meets_itself"),
    ),
    Mutant(
        "energy: the repulsion is left out",
        "functional/energy.py",
        "mean(a, b) + mean(b, a) - mean(a, a) - mean(b, b)",
        "mean(a, b) + mean(b, a) - mean(a.detach(), a.detach()) - mean(b, b)",
        method("energy", "loss_and_gradient"),
    ),
    Mutant(
        "energy: conditions are mixed",
        ENERGY,
        "same = same_condition(cond, len(x)) if cond else None",
        "same = None",
        method("energy", "one_condition"),
    ),
    Mutant(
        "energy: rows of a step have levels of their own",
        ENERGY,
        "sigma = self.levels(u, step).expand(batch.rows)",
        "sigma = self.levels(self.uniform(batch.rows), step)",
        method("energy", "one_level"),
    ),
]

TRANSPORTED = [
    Mutant(
        "fd_loss: the batch alone without its memory",
        FD_LOSS,
        "self.pull(h, self.memory.blended(drawn.h))",
        "self.pull(h, Moments.of(h))",
        method("fd_loss", "decimals"),
    ),
    Mutant(
        "fd_loss: a memory that does not move",
        FD_LOSS,
        "        self.mean.copy_(mean)\n        self.second.copy_(second)\n",
        "        pass\n",
        method("fd_loss", "memory_moves"),
    ),
    Mutant(
        "fd_loss: the transport's sign",
        FD_LOSS,
        "2 * (gap + centred - centred @ matrix)",
        "2 * (gap + centred + centred @ matrix)",
        method("fd_loss", "decimals"),
    ),
    Mutant(
        "fd_loss: the root of the distance",
        FD_LOSS,
        "scale = 1 / (distance + self.SOFTNESS)",
        "scale = 0.5 / (distance + self.SOFTNESS).sqrt()",
        method("fd_loss", "decimals"),
    ),
    Mutant(
        "fd_loss: the class is left out of the features",
        FD_LOSS,
        "if not self.classes:",
        "if True:",
        method("fd_loss", "forgotten"),
    ),
    Mutant(
        "fd_loss: trained features judge",
        "metrics/sets.py",
        "return not features.endswith(TRAINED)",
        "return True",
        method("fd_loss", "judges_nobody"),
    ),
]

POLICIES = [
    Mutant(
        "redif: the clip takes the smaller loss",
        POLICY,
        "torch.maximum(-advantage * ratio",
        "torch.minimum(-advantage * ratio",
        method("redif", "truth_table"),
    ),
    Mutant(
        "redif: a group's mean without the group",
        POLICY,
        "centred = reward - _sums(reward, place, group)[place] / count[place]",
        "centred = reward - reward.mean()",
        method("redif", "share_of_the_gradient"),
    ),
    Mutant(
        "redif: groups of rows that are not of one noise",
        REDIF,
        "device=drawn.z.device) // self.group",
        "device=drawn.z.device) % len(drawn.z)",
        method("redif", "stand_together"),
    ),
    Mutant(
        "redif: densities of the estimate in place of the step's mean",
        "samplers/policy.py",
        "mean = self.mean(k, states[-1], denoised(k, states[-1]))",
        "mean = denoised(k, states[-1])",
        method("redif", "exactly_one or exact_gradient"),
    ),
    Mutant(
        "redif: the guard is not part of the loss",
        REDIF,
        'value, info["guard"] = value + self.guard_weight * divergence, divergence.detach()',
        'info["guard"] = divergence.detach()',
        method("redif", "guard_is_part"),
    ),
    Mutant(
        "restore: a rank beyond the share of the energy",
        "functional/projection.py",
        "below = (energy < tau * energy[..., -1:]).sum(-1)",
        "below = (energy <= tau * energy[..., -1:]).sum(-1)",
        (INVERSE, "-k", "the_rank_is_the_least"),
    ),
    Mutant(
        "restore: random directions in place of the state's",
        "samplers/inverse/projection.py",
        "return own if self.control is None else random_subspace(own, self._random)",
        "return random_subspace(own, self._random)",
        (INVERSE, "-k", "the_directions_are"),
    ),
    Mutant(
        "restore: DAPS projects the pull to the prior",
        "samplers/inverse/daps.py",
        "likelihood = through(self.likelihood(y, u), k)\n"
        "            pull = likelihood + (clean - u) / r**2",
        "pull = through(self.likelihood(y, u) + (clean - u) / r**2, k)",
        (INVERSE, "-k", "nothing_but_the_gradient"),
    ),
    Mutant(
        "restore: a step of DPS without the scale of the next level",
        "samplers/inverse/dps.py",
        "return self.step * vp_scale(sigma) * vp_scale(target)",
        "return self.step * vp_scale(sigma)",
        (INVERSE, "-k", "a_step_of_dps"),
    ),
    Mutant(
        "restore: one norm for all rows of a batch",
        "samplers/inverse/base.py",
        "found = row_norm(y - self.operator.A(self.codec.decode(clean)))",
        "found = (y - self.operator.A(self.codec.decode(clean))).norm() / y.new_ones(len(y))",
        (INVERSE, "-k", "a_row_depends_on_its_seed and dps"),
    ),
    Mutant(
        "restore: what is finished is made again",
        "runs/restoring.py",
        "return [place for place in self.subjects.places() if not self.finished(place)]",
        "return [p for p in self.subjects.places() if self.finished(p) or True]",
        ("tests/test_restore.py", "-k", "gone_on_with"),
    ),
]

MANY = ("tests/test_processes.py", "-k", "processes_train or reported or divided_networks")

MANY_MUTANTS = [
    Mutant(
        "processes: gradients summed in place of averaged",
        DISTRIBUTED,
        "            flat /= world",
        "            flat /= 1",
        MANY,
    ),
    Mutant(
        "processes: what is reported is summed",
        DISTRIBUTED,
        "value /= processes.count()",
        "value /= 1",
        MANY,
    ),
    Mutant(
        "processes: a standard error of one process's rows",
        DISTRIBUTED,
        "return (variance / (n * world)).sqrt()",
        "return (variance / n).sqrt()",
        MANY,
    ),
    Mutant(
        "processes: each has the first rows of the data",
        "data/batches.py",
        "return slice(self.rank * rows, (self.rank + 1) * rows)",
        "return slice(0, rows)",
        MANY,
    ),
    Mutant(
        "processes: divided gradients are averaged twice",
        DISTRIBUTED,
        "if p.grad is not None and not is_divided(p.grad))",
        "if p.grad is not None)",
        MANY,
    ),
]

GUIDE = "samplers/guided.py"


def guided(words: str) -> tuple[str, ...]:
    return ("tests/test_guided.py", "-k", words)


GUIDED = [
    Mutant(
        "guide: the correction twice",
        GUIDE,
        "return passage.x_next + self.strength * correction",
        "return passage.x_next + 2 * self.strength * correction",
        guided("moments or is_kept"),
    ),
    Mutant(
        "guide: fresh noise in the place of the next state's",
        GUIDE,
        'if self.renoise == "fresh":',
        'if self.renoise != "fresh":',
        guided("perfect_student"),
    ),
    Mutant(
        "guide: asked at the level where the student has been",
        GUIDE,
        'sigma = passage.target if self.level == "next" else passage.sigma',
        "sigma = passage.sigma",
        guided("moments or strength_one"),
    ),
    Mutant(
        "guide: the teacher is asked at strength zero",
        GUIDE,
        "if self.strength == 0 or not chosen or",
        "if not chosen or",
        guided("strength_zero"),
    ),
    Mutant(
        "guide: the noise that an estimate has is added again",
        GUIDE,
        "own = sigma.square() - passage.floor**2",
        "own = sigma.square()",
        guided("not_added_again"),
    ),
    Mutant(
        "guide: a guided teacher counts once",
        GUIDE,
        "self.evaluations = 1 + sum(",
        "self.evaluations = 1 + 0 * sum(",
        guided("counts_twice"),
    ),
]


FAMILIES = [
    Mutant(
        "Flux: rows told as columns",
        DIFFUSERS_CALLS,
        "torch.stack([torch.zeros_like(rows), rows, columns], dim=1)",
        "torch.stack([torch.zeros_like(rows), columns, rows], dim=1)",
        families("sample_the_same and flux"),
    ),
    Mutant(
        "Sana: time in the scheduler's unit",
        DIFFUSERS_CALLS,
        "timestep=time * model.config.timestep_scale",
        "timestep=time",
        families("sample_the_same and sana"),
    ),
    Mutant(
        "SDXL: the vector of a prompt left at zero",
        DIFFUSERS_CALLS,
        '{"text_embeds": cond["pooled"].to(x.dtype)',
        '{"text_embeds": 0 * cond["pooled"].to(x.dtype)',
        families("sample_the_same and sdxl"),
    ),
    Mutant(
        "Wan: states beyond the prompt kept",
        DIFFUSERS_TEXTS,
        "states = states * mask[..., None]",
        "pass",
        families("sample_the_same and wan"),
    ),
    Mutant(
        "guidance: noise alone answered by the null condition",
        "denoisers/guidance.py",
        "both = self.denoiser.generate(torch.cat([z, z]), sigma, **self._both(cond))",
        "both = self.denoiser.generate(torch.cat([z, z]), sigma, **self._both(cond)).flip(0)",
        families("sample_the_same and sd3"),
    ),
]


# Mathematics of the methods that the lists above leave: what each is named for.
FINER = [
    Mutant(
        "anchor: the rate of a moving average does not fall",
        LAGGING,
        "return first if last is None else first * (last / first) ** (step / self.steps)",
        "return first",
        method("anchored", "rate_that_falls"),
    ),
    Mutant(
        "anchor: a moving average follows without an update",
        LAGGING,
        "            if moved:\n",
        "            if True:\n",
        method("anchored", "rate_that_falls"),
    ),
    Mutant(
        "anchor: the trust of what the student was",
        LAGGING,
        "new = [objective.generator.call(d.call, d.z, **d.batch.cond) for d in drawn]",
        "new = [d.x for d in drawn]",
        method("anchored", "has_left_it"),
    ),
    Mutant(
        "anchor: trust is not asked",
        LAGGING,
        "or (moved and self.left(objective, drawn, step))",
        "or (False and self.left(objective, drawn, step))",
        method("anchored", "has_left_it"),
    ),
    Mutant(
        "anchor: the steps of settling are not counted",
        LAGGING,
        "return updates * ratio + held",
        "return updates * ratio",
        method("anchored", "then_the_fake_settles"),
    ),
    Mutant(
        "steps: a solver's levels are looked at on the accelerator",
        SELF_CONSISTENCY,
        "            arrives=False,\n",
        "            arrives=None,\n",
        contract("not_wait and consistency"),
    ),
    Mutant(
        "steps: the rows of a queue are counted on the accelerator",
        "training/memory.py",
        "start = self.written.value + skipped",
        "start = int(self.rows.new_tensor(self.written.value)) + skipped",
        contract("not_wait and ddil"),
    ),
    Mutant(
        "solvers: a corrected step to zero asks once more",
        "samplers/trajectories.py",
        "        arrives = bool((sigmas[-1] == 0).all())\n",
        "        arrives = False\n",
        ("tests/test_samplers.py", "-k", "would_be_seen"),
    ),
    Mutant(
        "labels: an unknown one is none where nobody looks",
        "nn/layout.py",
        "return hot.masked_fill(unknown[:, None], math.nan)",
        "return hot",
        ("tests/test_edm_networks.py", "-k", "no_number"),
    ),
    Mutant(
        "alarms: the latents of all calls are counted",
        "runs/execute.py",
        "one = student.calls == 1",
        "one = True",
        ("tests/test_events.py", "-k", "generator_that_it_is"),
    ),
    Mutant(
        "anchor: the steps since a refresh are not saved",
        "training/memory.py",
        "self.value = int(state)",
        "self.value = 0",
        contract("resuming_is_exact and anchored-held"),
    ),
    Mutant(
        "anchor: the distance has the sign of its noise",
        ANCHORED,
        "torch.cat([gap, gap])",
        "torch.cat([gap, -gap])",
        method("anchored", "wherever_the_anchor_is"),
    ),
    Mutant(
        "anchor: the gain is left out",
        ANCHORED,
        "noise, cond, self.gain * gap)",
        "noise, cond, gap)",
        method("anchored", "the_gain"),
    ),
    Mutant(
        "bank: samples of the student in the anchor's place",
        "methods/banked.py",
        "torch.cat([drawn.x, self.anchored(drawn.call, z, tiled)])",
        "torch.cat([drawn.x, self.generator.call(drawn.call, z, **tiled)])",
        method("banked", "large_bank"),
    ),
    Mutant(
        "bank: the batch's own latents again",
        "methods/banked.py",
        "z = self.generator.latent_from(draws)",
        "z = drawn.z.repeat(self.bank, *[1] * (drawn.z.ndim - 1))",
        method("banked", "fresh_samples"),
    ),
    Mutant(
        "bank: conditions of other rows",
        "methods/banked.py",
        "{k: v.repeat(self.bank, *[1] * (v.ndim - 1)) for k, v in cond.items()}",
        "{k: v.repeat_interleave(self.bank, 0) for k, v in cond.items()}",
        method("banked", "fresh_samples"),
    ),
    Mutant(
        "codes: one interval for all",
        "nn/mlp.py",
        "return self.table((u[:, None] >= self.edges).sum(1))",
        "return self.table(0 * (u[:, None] >= self.edges).sum(1))",
        ("tests/test_problems.py", "-k", "codes_cut"),
    ),
    Mutant(
        "EMD: the noise of the last step is left in",
        CHAINS,
        '"last": moved - fresh',
        '"last": moved - 0 * fresh',
        method("emd", "what_is_cancelled"),
    ),
    Mutant(
        "EMD: the noise of the start is left in",
        CHAINS,
        "moved, quiet, fresh = eps, torch.zeros_like(eps), torch.zeros_like(eps)",
        "moved, quiet, fresh = eps, eps, torch.zeros_like(eps)",
        method("emd", "what_is_cancelled"),
    ),
    Mutant(
        "EMD: half the variance of a step's noise",
        CHAINS,
        "math.sqrt(2 * gamma_eps)",
        "math.sqrt(gamma_eps)",
        method("emd", "gaussian_chain"),
    ),
    Mutant(
        "EMD: latents without noise",
        CHAINS,
        "pull + math.sqrt(2 * gamma_z) * noise",
        "pull + 0 * noise",
        method("emd", "gaussian_chain"),
    ),
    Mutant(
        "EMD: a chain without the fake",
        EMD,
        "return score_difference(real, own, sigma)",
        "return score_difference(real, 0 * own, sigma)",
        method("emd", "is_diff_instruct"),
    ),
    Mutant(
        "ADM: a step twice as long",
        ADM,
        "return (self.shrink * sigma)",
        "return (self.shrink**2 * sigma)",
        method("adm", "laws_of_the_closed_form"),
    ),
    Mutant(
        "ADM: the margin is of the mean logit",
        ADM,
        "error = hinge_discriminator(real_logits, generated).mean()",
        "error = hinge_discriminator(real_logits.mean(0), generated.mean(0)).mean()",
        method("adm", "margin_is"),
    ),
    Mutant(
        "ADM: the weight of a level is left out",
        ADM,
        "value = (self.weight(sigma) * hinge_generator(logits).mean(0)).mean()",
        "value = hinge_generator(logits).mean()",
        contract("weight and adm"),
    ),
    Mutant(
        "ADP: the noise is not that of the pair",
        ADP,
        "x_t = pairs.x + expand_like(sigma, pairs.x) * pairs.z",
        "x_t = pairs.x + expand_like(sigma, pairs.x) * pairs.z.flip(0)",
        method("adm", "shown_what_lies_between"),
    ),
    Mutant(
        "ADP: the weights of samples and images swapped",
        ADP,
        "value = (1 - row.pixel_weight) * value + row.pixel_weight * error",
        "value = row.pixel_weight * value + (1 - row.pixel_weight) * error",
        method("adm", "image"),
    ),
    Mutant(
        "ADP: no gradient through the decoder",
        ADP,
        "return x if self.decode is None else self.decode(x)",
        "return x if self.decode is None else self.decode(x).detach()",
        method("adm", "through_the_decoder"),
    ),
    Mutant(
        "ADP: times that are uniform, not cubic",
        "denoisers/levels.py",
        "return 1 - (1 - u) ** 3",
        "return u",
        method("adm", "dense_at_the_noise"),
    ),
    Mutant(
        "hinge: real and generated swapped",
        "functional/adversarial.py",
        "return F.relu(1 + fake) + F.relu(1 - real)",
        "return F.relu(1 + real) + F.relu(1 - fake)",
        ("tests/test_discriminators.py", "-k", "optim"),
    ),
    Mutant(
        "FreeFlow: the derivative without the share of the way",
        FREEFLOW,
        "s, s * (1 - s / t)",
        "s, s",
        method("freeflow", "exact_map"),
    ),
    Mutant(
        "FreeFlow: a difference over half its length",
        "functional/derivatives.py",
        "/ (2 * h)",
        "/ h",
        method("freeflow", "derivatives_agree"),
    ),
    Mutant(
        "FreeFlow: a velocity in units of one",
        FREEFLOW,
        "scale = 1 / (self.sigma_data * self.time(t))",
        "scale = 1 / self.time(t)",
        method("freeflow", "other_units"),
    ),
    Mutant(
        "FreeFlow: the time of data of unit spread",
        FREEFLOW,
        "return sigma / (self.sigma_data + sigma)",
        "return sigma / (1 + sigma)",
        method("freeflow", "other_units"),
    ),
    Mutant(
        "FreeFlow: large errors weigh more",
        FREEFLOW,
        "(square + self.FLOOR) ** -self.adaptive",
        "(square + self.FLOOR) ** self.adaptive",
        method("freeflow", "weigh_less"),
    ),
    Mutant(
        "FreeFlow: the balance upside down",
        FREEFLOW,
        "self.balance * size / (length + 1e-6)",
        "self.balance * length / (size + 1e-6)",
        method("freeflow", "weigh_less"),
    ),
    Mutant(
        "FreeFlow: the correction does not wait",
        FREEFLOW,
        "if self.correction > 0 and step >= self.lead:",
        "if self.correction > 0:",
        method("freeflow", "prediction_leads"),
    ),
    Mutant(
        "FreeFlow: lower starts without noise",
        FREEFLOW,
        "x_t[rows] = x + expand_like(lower[rows], x) * noise",
        "x_t[rows] = x",
        method("freeflow", "lower_starts"),
    ),
    Mutant(
        "sid: the power of a level",
        SID,
        "factor = self.weight(sigma) / sigma**4",
        "factor = self.weight(sigma) / sigma**2",
        method("sid", "decimals"),
    ),
    Mutant(
        "f-distill: a ratio without a limit",
        F_DISTILL,
        "self.log_ratio(x_t, sigma, cond).clamp(-most, most)",
        "self.log_ratio(x_t, sigma, cond)",
        method("f_distill", "within_a_limit"),
    ),
    Mutant(
        "f-distill: the forward weight is that of the reverse",
        DIVERGENCES,
        "Divergence(lambda t: t.exp() * t, torch.exp)",
        "Divergence(lambda t: t.exp() * t, torch.ones_like)",
        method("f_distill", "second_derivative"),
    ),
    Mutant(
        "f-distill: Hellinger's weight without its half",
        DIVERGENCES,
        "lambda t: 0.5 * (t / 2).exp()",
        "lambda t: (t / 2).exp()",
        method("f_distill", "second_derivative"),
    ),
    Mutant(
        "fd_loss: half the pull of the mean",
        FD_LOSS,
        "2 * (gap + centred - centred @ matrix)",
        "2 * (0.5 * gap + centred - centred @ matrix)",
        method("fd_loss", "decimals"),
    ),
    Mutant(
        "fd_loss: the newest rows are replaced",
        FD_LOSS,
        "first = self.written.value % len(self.rows)",
        "first = (self.written.value - len(h)) % len(self.rows)",
        method("fd_loss", "what_was_blended"),
    ),
    Mutant(
        "fd_loss: the share of old and new swapped",
        FD_LOSS,
        "share = 1 - self.decay",
        "share = self.decay",
        method("fd_loss", "finite_differences"),
    ),
    Mutant(
        "fd_loss: the deviation of S in the place of its inverse",
        "functional/frechet.py",
        ".maximum(LEAST * values[-1]).rsqrt()",
        ".maximum(LEAST * values[-1]).sqrt()",
        method("fd_loss", "decimals"),
    ),
    Mutant(
        "ddil: shares that grow from the first step",
        STATES,
        "(step - self.start) / self.ramp",
        "step / self.ramp",
        method("ddil", "frequent"),
    ),
    Mutant(
        "ddil: both sources take the same rows",
        STATES,
        "            low += share\n",
        "            low += 0\n",
        method("ddil", "frequent"),
    ),
    Mutant(
        "ddil: the teacher's path starts at unit noise",
        STATES,
        "trajectory(asked, sigmas[0] * noise, sigmas, ",
        "trajectory(asked, noise, sigmas, ",
        method("ddil", "cannot_be_right or one_law"),
    ),
    Mutant(
        "ddil: the shift is that of the teacher's states",
        STATES,
        'for self.watched in ("forward", "student"):',
        'for self.watched in ("student", "forward"):',
        method("ddil", "covariate_shift"),
    ),
    Mutant(
        "rdd: at its end the queue writes over its last rows, as the released code does",
        "training/memory.py",
        "places = torch.arange(start, start + len(rows) - skipped, device=self.rows.device) % size",
        "start = min(start % size, size - len(rows) + skipped)\n"
        "        places = torch.arange(start, start + len(rows) - skipped)",
        method("rdd", "in_their_order or spread"),
    ),
    Mutant(
        "rdd: the head's positions are not of unit length",
        RDD,
        "rows = nn.functional.normalize(self.head(maps.transpose(1, 2).flatten(0, 1)), dim=1)",
        "rows = self.head(maps.transpose(1, 2).flatten(0, 1))",
        method("rdd", "plain_definition"),
    ),
    Mutant(
        "rdd: the divergence of the student from the teacher, reversed",
        RELATIONAL,
        "return (target.exp() * (target - student.log_softmax(1))).sum(1).mean()",
        "own = student.log_softmax(1)\n    return (own.exp() * (own - target)).sum(1).mean()",
        ("tests/test_relational.py", "-k", "sharpened"),
    ),
    Mutant(
        "redif: ratios above one are not clipped",
        POLICY,
        "ratio.clamp(1 - clip, 1 + clip)",
        "ratio.clamp_min(1 - clip)",
        method("redif", "truth_table"),
    ),
    Mutant(
        "redif: the divergence without its half",
        POLICY,
        "squared(mean - other) / (2 * deviation.square())",
        "squared(mean - other) / deviation.square()",
        method("redif"),
    ),
    Mutant(
        "redif: the estimate of the divergence of the other direction",
        POLICY,
        "return torch.expm1(log_ratio) - log_ratio",
        "return torch.expm1(-log_ratio) + log_ratio",
        method("redif", "right_on_average"),
    ),
    Mutant(
        "redif: a step weighs as one over its noise",
        REDIF,
        "s / mean if by_deviation",
        "mean / s if by_deviation",
        method("redif", "as_much_as_its_noise"),
    ),
    Mutant(
        "redif: the guard is from the student as it is",
        REDIF,
        "asked = answers(self.start.network, z, cond)",
        "asked = answers(self.student, z, cond)",
        method("redif", "stays_with_the_start"),
    ),
    Mutant(
        "redif: the control compares with the right sample",
        REDIF,
        "target = target.roll(self.group, 0)",
        "target = target.roll(0, 0)",
        method("redif", "own_sample"),
    ),
    Mutant(
        "redif: the instruments start from pairs of the training",
        REDIF,
        "cond = self.held_out.to(",
        "cond = self.pairs.to(",
        method("redif", "instruments_are"),
    ),
    Mutant(
        "redif: roll-outs start from what is withheld",
        "methods/redif.py",
        "pairs.select(order[held:])",
        "pairs.select(order)",
        method("redif", "withheld"),
    ),
    Mutant(
        "redif: the drift is not over the weights' length",
        REDIF,
        "(now - then).norm() / then.norm()",
        "(now - then).norm()",
        method("redif", "instruments_are"),
    ),
    Mutant(
        "redif: every ratio that moved counts as clipped",
        REDIF,
        "((ratio - 1).abs() > self.clip)",
        "((ratio - 1).abs() > 0)",
        method("redif", "instruments_are"),
    ),
    Mutant(
        "redif: the deviation within groups is that of all rewards",
        REDIF,
        "drawn.centred.square().mean().sqrt()",
        "drawn.reward.std()",
        method("redif", "instruments_are"),
    ),
    Mutant(
        "ddil: the shares grow over the whole run",
        "methods/ddil.py",
        "mixed(progressive.noised, path, steps)",
        "mixed(progressive.noised, path, config.steps)",
        method("ddil", "within_each_stage"),
    ),
    Mutant(
        "ddil: a stage's length is rounded by itself",
        "methods/ddil.py",
        "mixed(progressive.noised, path, steps)",
        "mixed(progressive.noised, path, round(config.steps / len(rows)))",
        method("ddil", "within_each_stage"),
    ),
    Mutant(
        "ddil: paths as often as is asked, however long",
        "methods/ddil.py",
        "refill=max(row.refill, len(path.stops))",
        "refill=row.refill",
        method("ddil", "within_each_stage"),
    ),
    Mutant(
        "redif: a step arrives with its noise beside the level's",
        "samplers/policy.py",
        "kept = (there.square() - fresh_noise(here, there, self.eta).square()).sqrt()",
        "kept = there",
        method("redif", "infinite_noise or ancestral"),
    ),
    Mutant(
        "LCM: the target is told the place of the first level",
        LCM,
        "self.answer(self.target, x_next, lower, last - after, told)",
        "self.answer(self.target, x_next, lower, last - i, told)",
        method("lcm", "skip"),
    ),
    Mutant(
        "LCM: the target at the level before the step",
        LCM,
        "self.answer(self.target, x_next, lower, last - after, told)",
        "self.answer(self.target, x_next, sigma, last - after, told)",
        method("lcm", "skip"),
    ),
    Mutant(
        "LCM: the softness is a square",
        "functional/distances.py",
        "return square / ((square + softness**2).sqrt() + softness)",
        "return square / ((square + softness).sqrt() + softness)",
        method("consistency_training", "softness"),
    ),
    Mutant(
        "progressive: the signal-to-noise ratio is cut from above",
        "functional/scores.py",
        "return sigma.clamp_max(sigma_data).square().reciprocal()",
        "return sigma.clamp_min(sigma_data).square().reciprocal()",
        method("progressive", "weights_are"),
    ),
    Mutant(
        "progressive: the last stages are as short as the others",
        "methods/halving.py",
        "config.late if calls <= 2 else 1.0",
        "config.late if calls <= 0 else 1.0",
        method("progressive"),
    ),
    Mutant(
        "progressive: a target without the share that is left of the state",
        "functional/trajectories.py",
        "return (x_next - ratio * x) / (1 - ratio)",
        "return x_next - ratio * x",
        method("progressive", "lands_where"),
    ),
    Mutant(
        "diffusion posterior: samples without the noise of the last level",
        "posteriors/diffusion.py",
        "w = w + posterior.LOW * torch.randn_like(w)",
        "w = w + 0 * torch.randn_like(w)",
        ("tests/test_diffusion_posterior.py", "-k", "last_level"),
    ),
    Mutant(
        "DMD2: the head is shown clean samples",
        DMD2,
        'y_t = y + expand_like(sigma, y) * self.noise_like(y, f"{role} noise")',
        'y_t = y + 0 * expand_like(sigma, y) * self.noise_like(y, f"{role} noise")',
        method("dmd2", "shown_noisy"),
    ),
    Mutant(
        "mean shift: one draw for all",
        MEAN_SHIFT,
        "for _ in range(self.draws)",
        "for _ in range(1)",
        method("mean_shift", "mean_of_draws"),
    ),
    Mutant(
        "SDI: no fresh noise",
        SDS,
        "eta=self.eta,",
        "eta=0.0,",
        method("sds", "sdi_inverts"),
    ),
    Mutant(
        "regression: the softness is the default",
        REGRESSION,
        "pseudo_huber(difference / self.unit, self.softness)",
        "pseudo_huber(difference / self.unit, 0.03)",
        method("regression", "mean_distance"),
    ),
    Mutant(
        "rdd: the memory's temperature is the default",
        RDD,
        "drawn.kept, row.memory_temperature",
        "drawn.kept, 0.1",
        method("rdd", "plain_definition"),
    ),
    Mutant(
        "rdd: the temperature of pairs is the default",
        RDD,
        "t = row.pair_temperature",
        "t = 1.0",
        method("rdd", "plain_definition"),
    ),
    Mutant(
        "fd_loss: features of samples, not of what they stand for",
        FD_LOSS,
        "self.space.of(self.decode(x))",
        "self.space.of(x)",
        method("fd_loss", "stand_for"),
    ),
    Mutant(
        "anchor: trust at the largest level",
        LAGGING,
        "new_full((1,), 0.5)",
        "new_full((1,), 1.0)",
        method("anchored", "in_the_middle"),
    ),
    Mutant(
        "critics: clean samples",
        CRITICS,
        'y_t = y + expand_like(sigma, y) * self.noise_like(y, f"{role} noise")',
        'y_t = y + 0 * expand_like(sigma, y) * self.noise_like(y, f"{role} noise")',
        method("f_distill", "shown_noisy"),
    ),
    Mutant(
        "ADP: the discriminator is shown clean samples",
        ADP,
        'y_t = x + expand_like(sigma, x) * self.noise_like(x, f"{role} noise")',
        'y_t = x + 0 * expand_like(sigma, x) * self.noise_like(x, f"{role} noise")',
        method("adm", "shown_noisy"),
    ),
    Mutant(
        "mean shift: the kernel pulls at all levels",
        MEAN_SHIFT,
        "low=self.low,\n",
        "low=0.0,\n",
        method("mean_shift", "mean_of_draws"),
    ),
    Mutant(
        "progressive: data without noise",
        PROGRESSIVE,
        "return Shown(x + noise, place, batch.cond)",
        "return Shown(x + 0 * noise, place, batch.cond)",
        method("progressive", "noised_by"),
    ),
    Mutant(
        "DiffRatio: the slope at clean samples",
        DIFF_RATIO,
        "(x + expand_like(sigma, x) * self.noise_like(x)).detach()",
        "(x + 0 * expand_like(sigma, x) * self.noise_like(x)).detach()",
        method("diff_ratio", "slope_is_taken"),
    ),
    Mutant(
        "DiffRatio: no weight of the level",
        DIFF_RATIO,
        "direction = -expand_like(self.weight(sigma), x) * slope",
        "direction = -slope",
        method("diff_ratio", "weight_of_its_level"),
    ),
    Mutant(
        "DiffRatio: the teacher's samples with the student's conditions",
        DIFF_RATIO,
        "self.noisy_logits(pairs.x, pairs.cond, step",
        "self.noisy_logits(pairs.x, drawn.batch.cond, step",
        method("diff_ratio", "their_own_conditions"),
    ),
    Mutant(
        "DiffRatio: the student at each step of the discriminator",
        DIFF_RATIO,
        'updates=("generator",), every=self.ratio)',
        'updates=("generator",), every=1)',
        method("diff_ratio", "each_ratio_th"),
    ),
    Mutant(
        "energy: no weight of the level",
        ENERGY,
        "value = self.weight(drawn.sigma[0]) * distance",
        "value = distance",
        method("energy", "draws_are_of_the_student"),
    ),
    Mutant(
        "energy: the exponent is always one",
        ENERGY,
        "same, exponent=self.exponent)",
        "same)",
        method("energy", "draws_are_of_the_student"),
    ),
    Mutant(
        "energy: the teacher answers clean samples",
        ENERGY,
        "x_t = x + expand_like(sigma, x) * self.noise_like(x)",
        "x_t = x",
        method("energy", "distance_with_the_answers"),
    ),
    Mutant(
        "energy: Euler's steps for Heun's",
        ENERGY,
        "correct=True, arrives=True)",
        "correct=False, arrives=True)",
        method("energy", "answers_are_its_flow"),
    ),
    Mutant(
        "energy: the flow ends at the last level but one",
        ENERGY,
        "0 * sigma[None]])",
        "low[None] ** self.RHO])",
        method("energy", "answers_are_its_flow"),
    ),
    Mutant(
        "f-distill: the discriminator is shown samples for data",
        F_DISTILL,
        "self.noisy_logits(drawn.batch.clean().to(drawn.x), cond",
        "self.noisy_logits(drawn.x.detach(), cond",
        method("f_distill", "logits_of_data"),
    ),
    Mutant(
        "f-distill: the ratio is read off the teacher's features alone",
        F_DISTILL,
        'return self.fake if self.reads == "fake" else self.teacher',
        "return self.teacher",
        method("f_distill", "network_that_is_named"),
    ),
    Mutant(
        "f-distill: a limit of one side",
        F_DISTILL,
        ".clamp(-most, most))",
        ".clamp_max(most))",
        method("f_distill", "within_a_limit"),
    ),
    Mutant(
        "ddil: no threshold of the target's answers",
        "methods/imitated.py",
        "return self.threshold(value) if network is self.target else value",
        "return value",
        method("ddil", "thresholded_and"),
    ),
    Mutant(
        "ddil: no threshold of the fake's estimates",
        "methods/imitated.py",
        "cond, self.threshold(mean))",
        "cond, mean)",
        method("ddil", "thresholded_and"),
    ),
    Mutant(
        "ddil: data for DMD2 at noise of one",
        "methods/imitated.py",
        'Shown(x + expand_like(sigma, x) * objective.noise_like(x, "forward")',
        'Shown(x + objective.noise_like(x, "forward")',
        method("ddil", "at_the_levels_of"),
    ),
    Mutant(
        "ddil: the path's stops in reverse",
        "methods/imitated.py",
        "torch.arange(0, len(levels), FINER)",
        "torch.arange(0, len(levels), FINER).flip(0)",
        method("ddil", "at_the_levels_of"),
    ),
    Mutant(
        "FreeFlow: a correction at clean samples",
        FREEFLOW,
        "x_r = x.detach() + expand_like(r, x) * self.noise_like(x)",
        "x_r = x.detach() + 0 * expand_like(r, x) * self.noise_like(x)",
        method("freeflow", "noisy_samples"),
    ),
    Mutant(
        "FreeFlow: a fake of clean samples",
        FREEFLOW,
        'x_r = x + expand_like(r, x) * self.noise_like(x, "fake noise")',
        'x_r = x + 0 * expand_like(r, x) * self.noise_like(x, "fake noise")',
        method("freeflow", "noisy_samples"),
    ),
]


EVALUATE = ("tests/test_evaluate.py",)
# What was measured before, and is taken where it is of the same.
MEASURED_ONCE = [
    Mutant(
        "measured once: numbers of other weights",
        "teachers/saved.py",
        "return rows if known == (__version__, models.weights_of(folder)) else ()",
        "return rows",
        EVALUATE,
    ),
    Mutant(
        "measured once: numbers of another number of samples",
        "problems/sampled_teachers.py",
        "if wanted in [(m.name, m.features, m.n, m.reference) for m in rows]:",
        "if wanted in [(m.name, m.features, n, m.reference) for m in rows]:",
        EVALUATE,
    ),
    Mutant(
        "measured once: samples of another number of steps",
        "problems/sampled_teachers.py",
        '"steps": steps, "rows": rows, "drawn": about}',
        '"rows": rows, "drawn": about}',
        EVALUATE,
    ),
    Mutant(
        "measured once: samples of other noise",
        "problems/sampled_teachers.py",
        '"rows": rows, "drawn": about}',
        '"rows": rows}',
        EVALUATE,
    ),
]

WARMER = ("tests/methods/test_temperature.py",)

TEMPERED = [
    Mutant(
        "temperature: it counts once too often",
        "functional/scores.py",
        "x + temperature * (denoised - x)",
        "x + temperature**2 * (denoised - x)",
        WARMER,
    ),
    Mutant(
        "temperature: the fake's mean is not tempered",
        DIFF_INSTRUCT,
        "own = tempered(mean, x, self.temperature)",
        "own = mean",
        WARMER,
    ),
    Mutant(
        "temperature: the bound's entropy counts once",
        VARDIU,
        "weight * (self.temperature * entropy - surrogate(x, direction))",
        "weight * (entropy - surrogate(x, direction))",
        WARMER,
    ),
    Mutant(
        "temperature: with the posterior's own weight the student's entropy counts once",
        VARDIU,
        "scale_gradient(x_t, self.temperature * weight / own)",
        "scale_gradient(x_t, weight / own)",
        WARMER,
    ),
    Mutant(
        "temperature: SiD projects on what is not tempered",
        SID,
        "dot(gap, real - tempered(x, x_t, self.temperature))",
        "dot(gap, real - x)",
        WARMER,
    ),
    Mutant(
        "temperature: EM distillation's chain is not tempered",
        EMD,
        "own = tempered(self.fake(x_t, sigma, **cond), x_t, self.temperature)",
        "own = self.fake(x_t, sigma, **cond)",
        WARMER,
    ),
    Mutant(
        "temperature: settings do not pass it on",
        DIFF_INSTRUCT_SETTINGS,
        '"temperature": config.temperature,',
        '"temperature": 1.0,',
        WARMER,
    ),
    Mutant(
        "temperature: VarDiU's settings do not pass it on",
        VARDIU_STAGES,
        "temperature=config.temperature,",
        "temperature=1.0,",
        WARMER,
    ),
    Mutant(
        "temperature: f-distill takes one beside its ratio",
        "methods/f_distill/__init__.py",
        'if self.temperature != 1 and self.divergence != "reverse_kl":',
        "if False:",
        WARMER,
    ),
]

FEW_CALLS = [
    Mutant(
        "few steps: levels where there is nothing but noise",
        "students/few_step.py",
        "top = min(high, denoiser.sigma_max, LAST_SEEN * max(1.0, unit))",
        "top = min(high, denoiser.sigma_max)",
        ("tests/test_export.py", "-k", "spread_of_the_data"),
    ),
    Mutant(
        "few steps: two levels of one time",
        "students/few_step.py",
        "        if sigma < levels[-1]:\n            levels.append(sigma)",
        "        levels.append(sigma)",
        ("tests/test_export.py", "-k", "spread_of_the_data"),
    ),
    Mutant(
        "few steps: fresh noise beside pairs is let through",
        "cli/options.py",
        "    refuse_fresh_noise(task.method, settings, problem)\n",
        "",
        ("tests/test_idle.py", "-k", "fresh_noise"),
    ),
]


CARDS = ("tests/reported/test_exports.py", "-k", "card")
CARD_MUTANTS = [
    Mutant(
        "card: classes that there are none of",
        "export/card.py",
        'turns = f" % {classes}" if classes < ROWS else ""',
        'turns = ""',
        CARDS,
    ),
    Mutant(
        "card: the plain weights of an autoencoder of fp16 alone",
        "export/card.py",
        'variant = f\'variant="{name}", \' if (name := about.get("codec_variant")) else ""',
        'variant = ""',
        ("tests/reported/test_exports.py", "-k", "fp16_alone and safetensors"),
    ),
    Mutant(
        "card: an adapter's student at another level",
        "export/card.py",
        'f"{name}={value!r}" for name, value in student.arguments.items()',
        'f"{name}={value!r}" for name, value in ()',
        ("tests/reported/test_exports.py", "-k", "adapters_card"),
    ),
    Mutant(
        "compare: into the folder of a run",
        "cli/compare.py",
        "        refuse_run(Path(chosen.out))\n",
        "",
        ("tests/reported/test_comparing.py", "-k", "folder_of_a_run"),
    ),
]


POINTS, TARGETS = "data/points.py", "problems/targets.py"
OF_POINTS = ("tests/test_points.py",)

TABLES = [
    Mutant(
        "points: a pandas index is a coordinate",
        POINTS,
        "if INDEX.fullmatch(name.lower()) and differ",
        "if False and differ",
        OF_POINTS,
    ),
    Mutant(
        "points: what was read of a table is not told",
        "problems/densities.py",
        "return [self.target.account] if self.target.account else []",
        "return []",
        OF_POINTS,
    ),
    Mutant(
        "points: those far from the origin are taken",
        POINTS,
        "np.abs(mean) > FARTHEST * std",
        "np.abs(mean) > 1e30 * std",
        OF_POINTS,
    ),
    Mutant(
        "points: a kernel of any width is taken",
        TARGETS,
        "if bandwidth <= spread:",
        "if True:",
        OF_POINTS,
    ),
    Mutant(
        "devices: a dry run takes any",
        "runs/task.py",
        """        refuse_unknown_device(self.device)
""",
        "",
        ("tests/test_cli.py", "-k", "one_clear_line"),
    ),
    Mutant(
        "probe: a teacher read from a folder is to be made otherwise",
        "teachers/probe.py",
        """if own or not isinstance(origin, Origin) or origin.kind == "function":""",
        "if True:",
        ("tests/test_teachers.py", "-k", "judged_as_noise"),
    ),
]

MUTANTS = [
    *FAMILIES,
    *SIGNS,
    *DROPPED,
    *NETWORKS,
    *SETTINGS,
    *PAIRED,
    *STATED,
    *ANCHOR,
    *IDENTITY,
    *FLOWS,
    *GUIDED,
    *OWN,
    *TRANSPORTED,
    *DISTANCES,
    *TRAJECTORY,
    *POLICIES,
    *MANY_MUTANTS,
    *FINER,
    *MEASURED_ONCE,
    *TEMPERED,
    *FEW_CALLS,
    *CARD_MUTANTS,
    *TABLES,
]


class NotOnce(Exception):
    """The text of a mutant is not in its file exactly once."""


def mutated(mutant: Mutant) -> str:
    """The mutant's file with its fault.

    Raises:
        NotOnce: The text that it replaces is not there exactly once.
    """
    source = (ROOT / "vardiu" / mutant.file).read_text()
    found = source.count(mutant.old)
    if found != 1:
        raise NotOnce(f"{mutant.name}: its text is {found} times in {mutant.file}, not once")
    return source.replace(mutant.old, mutant.new)


def copied(folder: Path) -> Path:
    """A copy of the package, its tests and the small networks that these take."""
    folder.mkdir(parents=True, exist_ok=True)
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("vardiu", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def outcome(folder: Path, tests: tuple[str, ...]) -> int:
    """What pytest says of a copy: 0 for passed, 1 for failed; anything else is no test.

    Raises:
        subprocess.TimeoutExpired: It does not end.
    """
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, check=False, timeout=LIMIT
    ).returncode


def survives(folder: Path, mutant: Mutant) -> bool:
    """Whether a mutant's tests pass.

    Raises:
        RuntimeError: They neither pass nor fail: there is no such test.
        subprocess.TimeoutExpired: They do not end.
    """
    path = folder / "vardiu" / mutant.file
    original = path.read_text()
    path.write_text(mutated(mutant))
    try:
        code = outcome(folder, mutant.tests)
    finally:
        path.write_text(original)
    if code not in (0, 1):
        raise RuntimeError(f"{mutant.name}: pytest ended with {code} on {' '.join(mutant.tests)}")
    return code == 0


def untouched(mutants: list[Mutant]) -> list[Mutant]:
    """What changes nothing, once for the tests of all mutants."""
    tests = sorted({mutant.tests for mutant in mutants})
    same = "from __future__"
    return [Mutant(f"{UNTOUCHED}{' '.join(t)}", "errors.py", same, same, t) for t in tests]


def judged(folder: Path, mutant: Mutant) -> dict[str, str | float]:
    """One mutant's line of the results; `expected` is what it should come to."""
    started = time.monotonic()
    try:
        told = "survived" if survives(folder, mutant) else "killed"
    except RuntimeError as error:
        told = str(error)
    except subprocess.TimeoutExpired:
        told = "no end"
    expected = "survived" if mutant.name.startswith(UNTOUCHED) else "killed"
    seconds = round(time.monotonic() - started, 1)
    return {"name": mutant.name, "outcome": told, "expected": expected, "seconds": seconds}


class Results:
    """The lines of a file, one a mutant; what a kill cut short is no line."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.lock = path, threading.Lock()
        self.rows: dict[str, dict[str, str | float]] = {}
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        for line in lines:
            if line.endswith("}"):
                row = json.loads(line)
                self.rows[row["name"]] = row

    def add(self, row: dict[str, str | float]) -> None:
        with self.lock:
            self.rows[str(row["name"])] = row
            if self.path is not None:
                with self.path.open("a") as file:
                    file.write("\n" + json.dumps(row, ensure_ascii=False))
                    file.flush()
                    os.fsync(file.fileno())


def run(todo: list[Mutant], jobs: int, results: Results) -> None:
    """Judges mutants, so many at a time, each job in its own copy of the package."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(jobs) as pool:
        folders: queue.Queue[Path] = queue.Queue()
        for i in range(jobs):
            folders.put(copied(Path(name) / str(i)))

        def one(mutant: Mutant) -> dict[str, str | float]:
            folder = folders.get()
            try:
                row = judged(folder, mutant)
            finally:
                folders.put(folder)
            results.add(row)
            return row

        for done in as_completed([pool.submit(one, mutant) for mutant in todo]):
            row = done.result()
            mark = " " if row["outcome"] == row["expected"] else "!"
            print(f"{mark} {row['outcome']:9} {row['seconds']:5.0f} s  {row['name']}", flush=True)


def main(words: list[str]) -> int:
    """Applies the chosen mutants, and prints a line for each."""
    parser = argparse.ArgumentParser(description="Faults that the tests must see.")
    parser.add_argument("words", nargs="*", help="those whose name has any of these")
    parser.add_argument("--shard", default="1/1", help="the i-th of n parts: i/n")
    parser.add_argument("--jobs", type=int, default=1, help="how many side by side")
    parser.add_argument("--results", type=Path, help="a file of JSON lines, gone on with")
    parser.add_argument("--untouched", action="store_true", help="the tests without a fault too")
    args = parser.parse_args(words)
    try:
        for mutant in MUTANTS:
            mutated(mutant)
    except NotOnce as error:
        print(error)
        return 2
    chosen = [m for m in MUTANTS if not args.words or any(word in m.name for word in args.words)]
    chosen += untouched(chosen) if args.untouched else []
    part, parts = (int(number) for number in args.shard.split("/"))
    if not 1 <= part <= parts or args.jobs < 1:
        parser.error("a shard i/n has 1 <= i <= n, and there is at least one job")
    chosen = chosen[part - 1 :: parts]
    results = Results(args.results)
    todo = [mutant for mutant in chosen if mutant.name not in results.rows]
    if todo:
        run(todo, args.jobs, results)
    rows = [results.rows[mutant.name] for mutant in chosen]
    wrong = [row for row in rows if row["outcome"] != row["expected"]]
    for row in wrong:
        print(f"! {row['outcome']}, not {row['expected']}: {row['name']}")
    print(f"{len(rows) - len(wrong)} of {len(rows)} as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
