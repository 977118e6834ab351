"""Count the UNet evaluations of single samples that each job takes, beside those of the released code.

    python experiments/count_evaluations.py

Ours are read off the pipeline's counter while the job runs on one image of the bundled model. The
released code's follow from its source: it generates twice for a mask, calls the UNet twice in each
re-anchored step, and evaluates both halves for every iteration and candidate.
"""

import torch

from attn_utils import down_cross_layers
from memorization.bundled import PLANTED
from memorization.models.stable_diffusion import load_pipeline
from memorization.observation import observe
from memorization.tables import format_table
from optim_utils import PromptReanchoring, first_timestep, optimize_prompt_embeds, predict_uncond, semantic_search

STEPS, ITERATIONS = 50, 10
CAPTIONS = ["the frozen field poster", *(f"a {c} poster of the frozen field" for c in ("red", "green", "blue"))]


class Jobs:
    """One image and what the jobs need for it."""

    def __init__(self):
        self.pipe = load_pipeline(str(PLANTED / "planted_sd"))
        self.latents = self.pipe.initial_latents([0])
        self.candidates, negative = self.pipe.encode(CAPTIONS)
        self.negative, self.text = negative[:1], self.candidates[:1]
        self.t = first_timestep(self.pipe, STEPS)

    def detection(self):
        tokens = torch.tensor([self.pipe.end_token(CAPTIONS[0])])
        layers = down_cross_layers(self.pipe.unet)
        embeds = (self.negative, self.text)
        observe(self.pipe, self.latents, embeds, tokens, layers=layers, num_inference_steps=STEPS)

    def reanchored_generation(self):
        embeds = (self.negative, self.text, self.candidates[1:2])
        guidance = PromptReanchoring(7.5, 3, 5)
        self.pipe.generate(self.latents, embeds, num_inference_steps=STEPS, guidance=guidance)

    def optimisation(self):
        uncond = predict_uncond(self.pipe, self.latents, self.t, self.negative)
        optimize_prompt_embeds(self.pipe, self.latents, self.t, self.text, uncond, num_iters=ITERATIONS)

    def search(self):
        uncond = predict_uncond(self.pipe, self.latents, self.t, self.negative)
        semantic_search(self.pipe, self.latents, self.t, [self.candidates], uncond, target=0.0)

    def count(self, job):
        before = self.pipe.num_unet_evals
        job()
        return self.pipe.num_unet_evals - before


def main():
    jobs, c = Jobs(), len(CAPTIONS)
    rows = [
        [f"detection with mask, S = {STEPS}", jobs.count(jobs.detection), f"4S = {4 * STEPS}"],
        ["one re-anchored step", jobs.count(jobs.reanchored_generation) // STEPS, "4"],
        [f"PE, k = {ITERATIONS} iterations", jobs.count(jobs.optimisation), f"2k = {2 * ITERATIONS}"],
        [f"SS, c = {c} candidates", jobs.count(jobs.search), f"2c = {2 * c}"],
    ]
    print(format_table(["job, per image", "evaluations", "released code"], rows))


if __name__ == "__main__":
    main()
