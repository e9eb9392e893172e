r"""Policy gradients of a few-step student: roll-outs, advantages, and the clipped loss.

.. math:: \mathcal{L} = \mathbb{E} \Big[ \frac1N \sum_k \omega_k \max \big( -A \rho_k, \,
    -A \, \mathrm{clip}(\rho_k, 1 \pm c) \big) \Big] + \beta \, \mathbb{E} \Big[ \frac1N \sum_k
    \mathrm{KL}_k \Big], \qquad \rho_k = \frac{\pi_\theta(x_{k+1} \mid x_k)}
    {\pi_\mathrm{old}(x_{k+1} \mid x_k)}

A step of the trainer is one epoch: roll-outs of the student as it is, then updates on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..errors import Diverged
from ..functional.policy import GUARDS, centred_in_groups, clipped_surrogate, standardised_by_kind
from ..samplers.pairs import Pairs
from ..samplers.policy import Denoised, StepPolicy
from ..students.few_step import FewStep
from ..training.memory import Held, History
from ..training.objective import Loss, Objective, Phase
from .regression import drawn_pairs
from .rewards import Reward

__all__ = ["PolicyGradient", "Rollouts"]


class Rollouts(NamedTuple):
    r"""Episodes of the student before its updates, a row each."""

    z: Tensor  # the latents, `(B, *)`
    states: Tensor  # `(B, N + 1, *)`
    log_prob: Tensor  # the log-densities of the steps when they were taken, `(B, N)`
    reference: Tensor  # the means of the student as it started, `(B, N, *)`, if it is guarded
    reward: Tensor  # `(B,)`
    centred: Tensor  # the rewards less their group's mean, `(B,)`
    advantage: Tensor  # `(B,)`
    kind: Tensor  # the classes of the rows, 0 without, `(B,)`
    cond: Mapping[str, Tensor]


class PolicyGradient(Objective):
    r"""Policy gradient of a few-step student with clipped ratios, as DDPO or GRPO.

    Needs:
        Pairs of the teacher, no data, no further call of the teacher; no gradient of the reward.

    Deviations:
        - The last step ends at the sample and not at a small level: its mean is what the student
          returns, so that the deterministic student is the one that is shipped.
        - The minibatches are the same ones in each inner epoch.

    References:
        | ReDiF: Reinforced Distillation for Few Step Diffusion (Tighkhorshid et al., 2025)
        | https://arxiv.org/abs/2512.22802; and see `vardiu.functional.policy`

    Arguments:
        teacher: The teacher, whose sampler made the pairs.
        student: The student, of the rule `ddim`; its latent has the teacher's shape.
        policy: Its stochastic steps, on the student's levels.
        reward: The reward.
        pairs: Noise, and the teacher's samples of it.
        held_out: Pairs that no roll-out starts from, for the instruments.
        group: The roll-outs :math:`G` of each noise.
        divide: What centred rewards of groups are divided by, see `centred_in_groups`.
        history: The rewards kept of each class, to compare with in place of groups; 0 for groups.
        least: The rewards of a class below which it is compared with the whole batch.
        classes: The number of classes.
        limit: The largest advantage.
        clip: The range :math:`c` of ratios.
        guard: The divergence from the student as it started, one of `GUARDS`.
        guard_weight: Its factor :math:`\beta`.
        by_deviation: Whether :math:`\omega_k` is the deviation over the mean one; else it is one.
        epochs: The times that the roll-outs are gone through.
        minibatches: The equal parts of them that are updated with.
        shuffled: Whether each noise is compared with the teacher's sample of another.

    Raises:
        ValueError: The student is no deterministic one on the policy's levels.
        Diverged: At its first step, the student answers otherwise in an update than in a roll-out.
    """

    TOLERANCE = 1e-3  # of the ratio before the first update, which is one
    diagnostics_every = 1  # a step is an epoch: they cost less

    def __init__(
        self,
        teacher: Denoiser,
        student: FewStep,
        policy: StepPolicy,
        reward: Reward,
        pairs: Pairs,
        held_out: Pairs,
        *,
        group: int = 8,
        divide: str = "global",
        history: int = 0,
        least: int = 16,
        classes: int = 1,
        limit: float = 5.0,
        clip: float = 0.2,
        guard: str = "gaussian",
        guard_weight: float = 0.05,
        by_deviation: bool = True,
        epochs: int = 2,
        minibatches: int = 1,
        shuffled: bool = False,
    ) -> None:
        super().__init__(teacher, student)
        if student.rule != "ddim" or student.sigmas != policy.sigmas:
            raise ValueError(
                f"a policy gradient needs a student of the rule 'ddim' on the levels of its "
                f"policy, {policy.sigmas}, got {student.rule!r} on {student.sigmas}"
            )
        self.policy, self.reward, self.pairs, self.held_out = policy, reward, pairs, held_out
        self.group, self.divide, self.least, self.limit = group, divide, least, limit
        self.clip, self.guard, self.guard_weight = clip, guard, guard_weight
        self.epochs, self.minibatches, self.shuffled = epochs, minibatches, shuffled
        mean = sum(policy.deviations) / len(policy.deviations)
        self.omega = [s / mean if by_deviation else 1.0 for s in policy.deviations]
        self.start = Held(student)
        if history:
            self.history = History(classes, history, "reward", "kind")

    @property
    def student(self) -> FewStep:
        r"""The student, by its class."""
        assert isinstance(self.generator, FewStep)
        return self.generator

    @property
    def phases(self) -> tuple[Phase, ...]:
        updates, repeat, parts = ("generator",), self.epochs, self.minibatches
        return (Phase("policy", self.loss, updates, repeat=repeat, minibatches=parts),)

    @property
    def row_coupling(self) -> str:
        return "advantages are made of the rewards of all rows of a batch"

    @torch.no_grad()
    def prepare(self, batch: Batch, step: int) -> Rollouts:
        rows = batch.rows
        drawn = drawn_pairs(self, self.pairs, math.ceil(rows / self.group))
        index = torch.arange(rows, device=drawn.z.device) // self.group
        z, target, cond = drawn.select(index)
        if self.shuffled:
            target = target.roll(self.group, 0)
        noise = [self.noise_like(z, f"step {k}") for k in range(len(self.omega))]
        # In the very parts that an update sees: rounding depends on the number of rows.
        size = math.ceil(rows / self.minibatches)
        episodes = [
            self.policy.roll_out(
                answers(self.student, z[part], {n: v[part] for n, v in cond.items()}),
                self.student.denoiser.pure_noise(z[part], self.policy.sigmas[0]),
                iter([n[part] for n in noise]),
            )
            for part in (slice(i, i + size) for i in range(0, rows, size))
        ]
        states, log_prob = (torch.cat(values) for values in zip(*episodes, strict=True))
        reward = self.reward(states[:, -1], target, cond)
        kind = cond["label"] if "label" in cond else torch.zeros_like(reward, dtype=torch.long)
        asked = answers(self.start.network, z, cond)
        reference = list(self.policy.means(asked, states)) if self.guard_weight else [z[:, :0]]
        centred = centred_in_groups(reward, self.group, "none")
        advantage = self.advantages(reward, kind)
        means = torch.stack(reference, 1)
        found = Rollouts(z, states, log_prob, means, reward, centred, advantage, kind, cond)
        if step == 0 and not (gap := self.ratio_gap(found).item()) <= self.TOLERANCE:
            raise Diverged(
                f"before the first update the ratio of new to old densities is off one by "
                f"{gap:.2g}: the student's network answers otherwise in an update than in a "
                "roll-out. Does it draw at random, as dropout does? Set it to 0"
            )
        return found

    def advantages(self, reward: Tensor, kind: Tensor) -> Tensor:
        r"""Returns the advantages, `(B,)`, by the rows' groups or by their classes' history."""
        found = centred_in_groups(reward, self.group, self.divide)
        if hasattr(self, "history"):
            found = standardised_by_kind(reward, kind, self.history.with_new, self.least)
        return found.clamp(-self.limit, self.limit)

    def ratio_gap(self, drawn: Rollouts) -> Tensor:
        r"""Returns the largest distance from one of the ratios of the student as it is."""
        size = math.ceil(len(drawn.z) / self.minibatches)
        cond = {name: value[:size] for name, value in drawn.cond.items()}
        asked = answers(self.student, drawn.z[:size], cond)
        now = self.policy.log_probs(asked, drawn.states[:size])
        return (now - drawn.log_prob[:size]).exp().sub(1).abs().max()

    def loss(self, drawn: Rollouts, step: int) -> Loss:
        policy, guard = self.policy, GUARDS[self.guard]
        terms, guards, ratios = list[Tensor](), list[Tensor](), list[Tensor]()
        means = policy.means(answers(self.student, drawn.z, drawn.cond), drawn.states)
        for k, mean in enumerate(means):
            action = drawn.states[:, k + 1]
            log_prob = policy.log_prob(k, action, mean)
            log_ratio = log_prob - drawn.log_prob[:, k]
            ratios.append(log_ratio.detach().exp())
            terms.append(self.omega[k] * clipped_surrogate(log_ratio, drawn.advantage, self.clip))
            if self.guard_weight:
                other = drawn.reference[:, k]
                s = action.new_full((len(action),), policy.deviations[k])
                between = policy.log_prob(k, action, other) - log_prob
                guards.append(guard(mean, other, s, between, policy.average))
        value, ratio = torch.stack(terms).mean(), torch.stack(ratios)
        info = {
            "reward": drawn.reward.mean(),
            "spread": drawn.centred.square().mean().sqrt(),
            "ratio": ratio.mean(),
            "clipped": ((ratio - 1).abs() > self.clip).to(ratio).mean(),
        }
        if guards:
            divergence = torch.stack(guards).mean()
            value, info["guard"] = value + self.guard_weight * divergence, divergence.detach()
        return Loss(value, info)

    def diagnostics(self, batch: Batch, step: int) -> dict[str, Tensor]:
        z, target, cond = self.held_out.to(self.like.device)
        z, target = z.to(self.like), target.to(self.like)
        with self.undisturbed("policy"):
            gap = self.ratio_gap(self.prepare(batch, 1))
        now, then = (
            torch.cat([p.flatten() for p in module.parameters()])
            for module in (self.generator, self.start.network)
        )
        found = {"drift": (now - then).norm() / then.norm(), "first_ratio": 1 + gap}
        for name, student in (("held_out", self.generator), ("held_out_start", self.start)):
            reward = self.reward(student(z, **cond), target, cond)
            found[name] = reward.mean()
            if len(reward) > 1:  # every process has the same pairs: it is of one's own
                found[f"{name}_error"] = reward.std() / math.sqrt(len(reward))
        return found


def answers(student: nn.Module, z: Tensor, cond: Mapping[str, Tensor]) -> Denoised:
    r"""Returns the student's answer to a state of a level; to the first one as to its latent."""
    assert isinstance(student, FewStep)
    return lambda k, x: student.call(k, z if k == 0 else x, **cond)
