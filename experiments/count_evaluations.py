"""Count the UNet evaluations of single samples that each job takes, beside those of the released code.

    python experiments/count_evaluations.py

Ours are read off the pipeline's counter while the job runs on one image of the bundled model. The
released code's follow from its source: it generates twice for a mask, calls the UNet twice in each
re-anchored step, and evaluates both halves for every iteration and candidate.
"""

from collections.abc import Callable

from attn_utils import down_cross_layers
from memorization.bundled import MODEL
from memorization.models.stable_diffusion import load_pipeline
from memorization.observation import Recorded, make_inputs, observe_batches
from memorization.tables import format_table
from optim_utils import PromptReanchoring, first_timestep, optimize_prompt_embeds, predict_uncond, semantic_search

STEPS, ITERATIONS = 50, 10
CAPTIONS = ["the wild owl poster", *(f"a {c} poster of the wild owl" for c in ("red", "green", "blue"))]


class Jobs:
    """One image and what the jobs need for it."""

    def __init__(self) -> None:
        self.pipe = load_pipeline(str(MODEL))
        self.inputs = make_inputs(self.pipe, CAPTIONS[:1], [[0]])
        self.latents, (self.negative, self.text) = self.inputs.latents, self.inputs.embeds
        self.candidates = self.pipe.encode(CAPTIONS)[0]
        self.t = first_timestep(self.pipe, STEPS)

    def detection(self) -> None:
        recorded = Recorded(down_cross_layers(self.pipe.unet))
        observe_batches(self.pipe, self.inputs, 1, recorded, num_inference_steps=STEPS)

    def reanchored_generation(self) -> None:
        embeds = (self.negative, self.text, self.candidates[1:2])
        guidance = PromptReanchoring(7.5, 3, 5)
        self.pipe.generate(self.latents, embeds, num_inference_steps=STEPS, guidance=guidance)

    def optimisation(self) -> None:
        uncond = predict_uncond(self.pipe, self.latents, self.t, self.negative)
        optimize_prompt_embeds(self.pipe, self.latents, self.t, self.text, uncond, num_iters=ITERATIONS)

    def search(self) -> None:
        uncond = predict_uncond(self.pipe, self.latents, self.t, self.negative)
        semantic_search(self.pipe, self.latents, self.t, [self.candidates], uncond, target=0.0)

    def count(self, job: Callable[[], None]) -> int:
        """Evaluations that a job takes."""
        before = self.pipe.num_unet_evals
        job()
        return self.pipe.num_unet_evals - before


def main() -> None:
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
