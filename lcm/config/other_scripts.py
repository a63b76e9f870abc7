"""Flags of other training scripts, and what people try first: what to use here."""

from __future__ import annotations

IS_READ = "nothing: it is read from the model"
ATTENTION = "nothing: PyTorch's own attention is always used"
ONE_BY_ONE = "nothing: the VAE encodes one picture at a time; cache_latents encodes each once"

PUBLIC_SCRIPTS = {
    "train_shards_path_or_url": (
        "webdataset for tar shards on this machine, dataset_name for a data set on the hub"
    ),
    "use_fix_crop_and_size": (
        "nothing: SDXL is told how each image was cut; center_crop cuts all alike"
    ),
    "encode_batch_size": ONE_BY_ONE,
    "vae_encode_batch_size": ONE_BY_ONE,
    "scale_lr": (
        "learning_rate: it is the rate itself, whatever the batch and the number of processes"
    ),
    "w_min": "guidance_scale_min, which is w_min + 1",
    "w_max": "guidance_scale_max, which is w_max + 1",
    "validation_prompt": "validation_prompts",
    "num_validation_images": (
        "validation_num_images, beside validation_prompts (one row each) and validation_num_steps "
        "(one column each)"
    ),
    "enable_xformers_memory_efficient_attention": ATTENTION,
    "local_rank": "nothing: accelerate launch sets it",
    "hub_token": (
        "`hf auth login`, or HF_TOKEN in the environment: on the command line a token "
        "ends in the shell's history"
    ),
    "cast_teacher_unet": "mixed_precision: teacher and student share one U-Net",
}
"""Flags of the scripts of diffusers."""

KOHYA = {
    "network_dim": "lora_rank",
    "network_alpha": "lora_alpha",
    "network_dropout": "lora_dropout",
    "network_weights": "init_adapter",
    "network_module": "nothing: a LoRA is what is trained, with full_finetune the whole U-Net",
    "unet_lr": "learning_rate",
    "text_encoder_lr": "nothing: text encoders are not trained",
    "network_train_unet_only": "nothing: text encoders are not trained",
    "optimizer_type": "use_8bit_adam for moments in 8 bits; the optimizer is AdamW",
    "max_train_epochs": "num_train_epochs",
    "max_data_loader_n_workers": "dataloader_num_workers",
    "save_every_n_steps": "checkpointing_steps",
    "save_every_n_epochs": "checkpointing_steps, counted in updates",
    "save_last_n_steps": "checkpoints_total_limit",
    "save_state": "nothing: a checkpoint has all that resuming needs",
    "save_model_as": "nothing: safetensors is what is written",
    "save_precision": "nothing: fp16 is what is written; `lcm convert --dtype` has others",
    "resume": "resume_from_checkpoint",
    "sample_prompts": "validation_prompts",
    "sample_every_n_steps": "validation_steps",
    "cache_latents_to_disk": "cache_latents, which is on disk",
    "enable_bucket": "aspect_ratio_buckets",
    "flip_aug": "random_flip",
    "min_snr_gamma": "snr_gamma, with weighting min_snr",
    "dataset_config": "train_data_dir, a folder of images",
    "in_json": "train_data_dir, whose metadata.jsonl has the captions",
    "vae": "pretrained_vae_model_name_or_path",
    "v2": IS_READ,
    "v_parameterization": (
        "nothing where the model says it itself, else prediction_type v_prediction"
    ),
    "xformers": ATTENTION,
    "sdpa": ATTENTION,
    "mem_eff_attn": ATTENTION,
    "full_fp16": "mixed_precision fp16; the adapter is float32 always",
    "full_bf16": "mixed_precision bf16; the adapter is float32 always",
    "log_with": "report_to",
    "wandb_api_key": "report_to wandb, after `wandb login`",
    "huggingface_repo_id": "hub_model_id, with push_to_hub",
    "huggingface_token": "`hf auth login`, or HF_TOKEN in the environment",
    "lr_scheduler_num_cycles": "nothing: cosine_with_restarts has one cycle",
}
"""Flags of kohya's scripts."""

TRIED_FIRST = {
    **dict.fromkeys(
        ("teacher", "teacher_model", "model", "base", "base_model", "pretrained_model"),
        "pretrained_teacher_model",
    ),
    **dict.fromkeys(("steps", "num_steps", "max_steps", "train_steps"), "max_train_steps"),
    **dict.fromkeys(("epochs", "num_epochs"), "num_train_epochs"),
    **dict.fromkeys(("batch_size", "batch", "bs"), "train_batch_size"),
    **dict.fromkeys(("rank", "lora_dim", "dim", "r"), "lora_rank"),
    "alpha": "lora_alpha",
    **dict.fromkeys(
        ("data", "train_data", "data_dir", "images", "image_dir", "instance_data_dir"),
        "train_data_dir",
    ),
    "dataset": "dataset_name for a data set on the hub, train_data_dir for a folder",
    **dict.fromkeys(("output", "out", "outdir", "out_dir", "output_folder"), "output_dir"),
    "save_steps": "checkpointing_steps",
    **dict.fromkeys(("checkpoint", "resume_from"), "resume_from_checkpoint"),
    **dict.fromkeys(("workers", "num_workers"), "dataloader_num_workers"),
    **dict.fromkeys(("size", "image_size", "res"), "resolution"),
    **dict.fromkeys(("method", "algorithm"), "objective"),
    **dict.fromkeys(("guidance", "cfg", "cfg_scale"), "guidance_scale"),
    "w": "guidance_scale, which is w + 1",
    "loss": "loss_type",
    "prompts": "validation_prompts for grids, prompts_file to train without images",
    "precision": "mixed_precision",
    "fp16": "mixed_precision fp16",
    "bf16": "mixed_precision bf16",
    "wandb": "report_to wandb",
    "sdxl": IS_READ,
    **dict.fromkeys(
        ("gpus", "num_gpus", "num_processes"),
        "`accelerate launch --num_processes N train_lcm_lora.py`",
    ),
}
"""Shorter names, and those of other kinds of programs."""

FOREIGN_FLAGS = {**TRIED_FIRST, **KOHYA, **PUBLIC_SCRIPTS}
"""Every flag that is answered with what to use here."""
