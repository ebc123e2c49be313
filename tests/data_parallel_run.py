"""One run, alone or under torchrun. Arguments: method, architecture, batch size of a process, output folder."""

import os
import sys
from pathlib import Path

import torch
from conftest import class_split, processing_class, trained

from hf_unlearn import METHODS, UnlearningArguments, UnlearningTrainer

method, arch, batch, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
settings = {
    "jit-sum": {"num_perturbations": 3, "reduction": "sum"},
    "feature_information": {"attribute": "group"},
    "marginal_information": {"gamma": 2.0, "memory": 0.5},
}.get(method, {})
split = class_split(arch, 128)
trainer = UnlearningTrainer(
    trained(arch),
    UnlearningArguments(
        output_dir=str(folder),
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        max_steps=3,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=48,  # divides the 96 rows: the base class pads uneven shards with repeated rows
        forget_target=-1.0,
        max_retain_drop=1.0,
        logging_steps=1,
        update="all",
        trust_region=0.0,
        optim="sgd",
        learning_rate=0.05,
        max_grad_norm=0.0,
        dataloader_pin_memory=False,
    ),
    METHODS[method.removesuffix("-sum")](**settings),
    split.forget,
    split.retain,
    processing_class=processing_class(arch),
)
trainer.train()
test_loss = trainer.evaluate(split.retain)["eval_loss"]
if trainer.is_world_process_zero():
    losses = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    torch.save(
        {
            "weights": trainer.model.state_dict(),
            "losses": losses,
            "eval_loss": test_loss,
            "processes": trainer.args.world_size,
            "path": trainer.outcome.path,
        },
        folder / "result.pt",
    )
trainer.accelerator.wait_for_everyone()
trainer.end()
sys.stdout.flush()
os._exit(0)  # gloo's threads now and then abort an interpreter that shuts down in order
