"""The quickstart's pictures are drawn from result files alone."""

from PIL import Image

import detect_mem
import inference_mem
from examples import make_figures


def test_pictures_and_tables_come_from_the_result_files(model_folder, tmp_path, capsys):
    common = ["--run_name", "quickstart", "--num_images_per_prompt", "1", "--num_inference_steps", "2"]
    common += ["--model_id", str(model_folder), "--output_dir", str(tmp_path)]
    detect_mem.main(common)
    for method in ([], ["--l_target_ss", "0.01", "--l_target_pr", "0.01", "--mag_thres_pr", "0.1", "--pr_mask"]):
        inference_mem.main([*common, "--start", "21", "--end", "27", *method])
    make_figures.main(["--output_dir", str(tmp_path)])
    for name in ("detection", "scores", "mitigation"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 300 and len(set(picture.convert("L").getdata())) > 50
    page = (tmp_path / "summary.md").read_text()
    assert "| prss_prmask" in page and "AUC per image" in page and "6 of 6" in page
