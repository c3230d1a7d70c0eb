"""Train an adapter. The life of a run, with the module of each step:

recipe          read the TOML recipe
dataset         load the rows, refuse red data (data/lint.py), hold out validation rows, and render both splits
loss_mask       render a conversation with the chat template and mask the loss to assistant messages
publish         with --publish: compare tokens with the gateway before training, upload the adapter after it
memory          refuse a run that does not fit, with the setting to lower
model           load the base (base.py finds it) and put the adapter on it
loop            fit: optimizer steps, eval loss per epoch, early stopping; batching, attention, loss, optimizer
checkpoint      save and resume
distributed     data parallel and FSDP2
metrics_log     metrics.jsonl, progress bar, curves; tracking sends them to TensorBoard, MLflow or W&B
parity          evaluate on the bf16 base as it is served, and record parity vectors
run_metadata    training.json and rows.jsonl, which lineage searches
artifacts       write and verify adapter, metadata and model card
run             all of these in order; run_directory stages the folder; sweep and verify_run build on it
export          PEFT's files, merge into the base, or gguf_adapter; hub pushes a run
"""
