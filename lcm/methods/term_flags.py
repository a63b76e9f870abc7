"""Flags of what is added to the loss of a method. None as in `shared_flags`."""

from __future__ import annotations

from dataclasses import dataclass

from lcm.methods.shared_flags import own
from lcm.system.flags import Section


def named(words: list[str]) -> list[str]:
    """The terms that are named, none for "none" alone."""
    return [] if words == ["none"] else words


@dataclass(frozen=True)
class TermFlags(Section):
    """The terms, their critics, and what each of them reads."""

    terms: list[str] | None = own(
        "what is added to the loss, each as name=weight or by its name alone: latent_perceptual, "
        "adversarial, dmd, reward",
        "none; dmd with dmd; adversarial=0.1 dmd=1.0 with hyper",
        may_be_empty=True,
        read=named,
    )
    critic_updates: int | None = own(
        "updates of the critics of terms for each one of the student",
        "1; 2 with dmd, hyper",
        at_least=1,
        at_most=100,
    )
    adversarial_real: str | None = own(
        "what the heads of the term adversarial tell the student's landing points from",
        "target; images with scm, phased_scm, dmd",
        names=lambda: ("target", "images"),
    )
    adversarial_r1: float | None = own(
        "weight of the squared gradient of those heads to what is real; 0 is none",
        "0.0",
        at_least=0,
        at_most=1e6,
    )
    dmd_of: str | None = own(
        "where the term dmd takes its pictures from: the landing points of the method, or a step "
        "of its own from pure noise",
        "landing; noise with pcm, tcd, tscd, phased_scm, flow_map, hyper",
        names=lambda: ("landing", "noise"),
    )
    dmd_start: float | None = own(
        "share of the run after which the term dmd begins",
        "0.0; 0.5 with hyper",
        at_least=0,
        below=1,
    )
    reward: str | None = own(
        "what the term reward is by: clip, pick_score, hpsv2, or a function as module:function: "
        "(pictures [n, 3, H, W] in [0, 1], prompts) -> [n], more is better",
        "none",
    )
    reward_weights: str | None = own(
        "folder with the weights of the network that --reward names",
        "the cache of the hub",
        is_place=True,
        is_free=True,
    )
    reward_share: float | None = own(
        "share of the samples that the term reward looks at", "0.25", above=0, at_most=1
    )
    reward_vae: str | None = own(
        "a tiny VAE (AutoencoderTiny) for the term reward, folder or hub id",
        "the teacher's own",
        is_place=True,
    )
