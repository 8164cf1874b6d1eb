"""Step 3: QLoRA fine-tuning. Out of memory? Take gate_proj, up_proj and down_proj out of this list."""

from papertune.cli import script

target_modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

if __name__ == "__main__":
    script("train", target_modules=target_modules)
