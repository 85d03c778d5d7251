"""A mistake in the config is found before anything is written, and the message names key and remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from pixelflow.cli import explain
from tests.conf.test_compose import composed

INVALID = [
    ("cascade.num_stages=9", r"cascade.num_stages=9 needs image_size divisible by 256 \(got 16\).*num_stages=5"),
    ("cascade.num_stages=0", r"cascade.num_stages=0 must be at least 1"),
    ("cascade.gamma=0.5", r"cascade.gamma=0.5 must be in \[-1/3, 0\)"),
    ("backbone.patch_size=16", r"backbone.patch_size=16 does not divide the kickoff.*8.*num_stages=1"),
    ("backbone.patch_size=5", r"backbone.patch_size=5 does not divide the kickoff.*smaller patch"),
    ("cascade=kickoff cascade.num_stages=2 cascade.kickoff=5", r"cascade.kickoff=5 must be image_size=16.*\[16, 8, 4"),
    ("trainer.max_steps=abc", r"trainer.max_steps='abc': must be a valid integer"),
    ("trainer.max_steps=-1", r"trainer.max_steps=-1 must be at least 1"),
    ("trainer.accumulate=3", r"trainer.accumulate=3 must divide batch_size=64"),
    ("trainer.precision=fp8", r"trainer.precision='fp8': must be 'fp32' or 'bf16'"),
    ("trainer.device=cuda:99", r"trainer.device=cuda:99|no CUDA device"),
    ("trainer.parallel=dp", r"trainer.parallel='dp': must be 'none', 'ddp' or 'fsdp'"),
    ("trainer.attention=varlen trainer.device=cpu", r"trainer.attention=varlen needs a CUDA device; use auto or dense"),
    ("trainer.compile=true trainer.batch_size=7", r"trainer.compile=true needs fixed shapes.*use batch_size=8"),
    ("ema.snapshot_every=5", r"ema.snapshot_every needs power="),
    ("ema.power=[0.5]", r"ema.power=0.5 must be in"),
    ("sampler.weights=power_0.5", r"power=0.5 must be in \(0, 0.28\]"),
    ("init_from=nowhere", r"init_from=nowhere is not a checkpoint: it has no state.json"),
    ("seed=1.5", r"seed=1.5: must be a valid integer"),
    ("optimizer.lr=fast", r"optimizer.lr='fast'"),
    ("ema.decay=1.5", r"ema.decay=1.5 must be in \[0, 1\)"),
    ("solver.num_steps=[1,2,3]", r"solver.num_steps=\[1, 2, 3\] has 3 entries, but the cascade has 2 stages"),
    ("solver.grid=cosine", r"solver.grid='cosine': must be 'reference' or 'uniform'"),
    ("guidance=stage_wise guidance.weights=[0,1,1]", r"guidance.weights has 3 entries.*2 stages"),
    ("guidance=interval guidance.low=0.95", r"guidance.low=0.95, high=0.9"),
    (
        "backbone=jit_tiny",
        r"cascade.num_stages=2 needs.*fixed to 16 pixels: use cascade=single, or backbone.image_size=null",
    ),
    ("backbone=jit_tiny cascade=single backbone.width=100", r"backbone.width=100 must be divisible by"),
    ("backbone=jit_tiny cascade=single backbone.patch_size=5", r"backbone.patch_size=5 must divide image_size=16"),
    ("backbone=jit_tiny cascade=single backbone.in_context_start=4", r"backbone.in_context_start=4.*0 to 3"),
    ("objective=pixelgen", r"objective.terms.\w+.layer=8 must be a block of the backbone, 0 to 3"),
    ("+loss@objective.terms.repa=repa", r"objective.terms.repa.encoder=dino is not among the encoders \(none\)"),
    ("objective=digits_perceptual objective.terms.perceptual.min_t=1", r"min_t=1.* must be in \[0, 1\)"),
    ("objective=digits_perceptual objective.terms.perceptual.gating=off", r"'gated' or 'as_released'"),
    ("objective=pixelgen objective.adaptive.terms=[vgg]", r"adaptive names vgg, which is not among the terms"),
    ("objective=pixelgen objective.adaptive.every=0", r"every=0 must be at least 1"),
    ("objective=pixelgen +objective.adaptive.evry=1", r"objective.adaptive.evry is not an option.*mean every"),
    ("timesteps=logit_normal timesteps.std=0", r"timesteps.std=0.* must be above 0"),
    ("timesteps=logit_normal timesteps.low=1", r"timesteps.low=1.* must satisfy 0 <= low < high <= 1"),
    ("conditioning.drop_prob=2", r"conditioning.drop_prob=2 must be in \[0, 1\]"),
    ("objective.terms.flow_matching.weight=0", r"objective.terms: at least one loss"),
    ("data.image_size=100", r"data.image_size=100 must be in 8..64|needs image_size"),
    ("sampler.num_samples=0", r"sampler.num_samples=0 must be at least 1"),
    ("sampler.weights=best", r"sampler.weights='best': must be 'ema' or 'model'"),
    ("sampler.classes=[3,10]", r"sampler.classes=\[3, 10\] must name classes in 0..9: balanced, a range like 0-9"),
    ("sampler.batch_size=[1,2,3]", r"sampler.batch_size=\[1, 2, 3\] has 3 entries, but the cascade has 2 stages"),
    ("sampler.batch_size=0", r"sampler.batch_size=0 must be at least 1"),
    ("sampler.fixed_batch=0", r"sampler.fixed_batch=0 must be at least 1"),
    ("sampler.format=jpg", r"sampler.format='jpg': must be 'npz', 'png' or 'shards'"),
    ("sampler.cache_every=2 solver=dopri5", r"sampler.cache_every=2 needs a solver with fixed steps"),
    ("sampler.cache_every=2 backbone.depth=3", r"sampler: feature caching needs a PixelFlow backbone"),
    ("sampler.cuda_graphs=true trainer.device=cpu", r"sampler.cuda_graphs=true needs a CUDA device"),
    ("solver=dopri5 solver.num_steps=5", r"solver.num_steps.*num_steps|num_steps is not an option"),
    ("solver=dopri5 solver.rtol=0", r"solver.rtol=0.*must be above 0"),
    ("solver=adams_bashforth solver.order=5", r"solver.order=5 must be in 1..4"),
    ("solver=fast solver.last_steps=0", r"solver.last_steps=0 must be at least 1"),
    ("guidance=stage_interval guidance.low=0.95", r"guidance.low=0.95, high=0.9"),
    ("data=webdataset +data.captions.txt=1.0", r"data.captions=.*ClassLabel does not read captions"),
    ("+foo=1", r"unknown option foo"),
    ("+sampler.num_sample=1", r"unknown option sampler.num_sample; did you mean sampler.num_samples"),
    ("+solver.step=1", r"solver.step is not an option of pixelflow.solvers.Euler"),
    ("+optimiser=adamw", r"unknown option optimiser; did you mean optimizer"),
    ("~seed", r"seed is missing"),
    ("~sampler.format", r"sampler.format is missing"),
    ("~solver", r"solver has no _target_ .*choose an option of the group"),
    ("~sampler", r"sampler=None must be a mapping"),
    ("solver._target_=foo.Bar", r"solver._target_=foo.Bar cannot be imported"),
    ("tracking.uri=foo://bar", r"tracking.uri=foo://bar must be a folder or begin with one of http"),
    ("tracking.mlflow=maybe", r"tracking.mlflow='maybe': must be a valid boolean"),
    ("+tracking.url=x", r"unknown option tracking.url; did you mean tracking.uri"),
    ("+assets.folder=x", r"unknown option assets.folder; accepted: root"),
    ("paper=[5]", r"paper=\[5\]: must be a valid"),
    ("axes=seed", r"axes='seed': must be a valid list"),
    ("seeds=many", r"seeds='many': must be"),
    ("sampler.trajectories=-1", r"sampler.trajectories=-1 must be at least 0"),
    ("sampler.per_shard=0", r"sampler.per_shard=0 must be at least 1"),
    ("metrics.also=[foo]", r"metrics.also=\['foo'\]: foo is none of kid, fid_infinity"),
    ("metrics.reference=3", r"metrics.reference=3: must be a valid string"),
    ("metrics.prompts=[a]", r"metrics.prompts=\['a'\]: must be a valid string"),
    ("site.uncommitted=maybe", r"site.uncommitted='maybe': must be 'record' or 'refuse'"),
    ("+site.foo=1", r"site.foo is not an option of pixelflow.sweeps.site.Site"),
    ("site.processes=0", r"site.processes=0 must be at least 1"),
    ("optimizer.betas=[0.9]", r"optimizer.betas=\[0.9\]"),
    ("data.num_classes=0", r"num_classes=0"),
    ("job=benchmark job.part=nope", r"job.part='nope'"),
    ("job=prepare", r"job=prepare needs job.output=FOLDER"),
    ("job=prepare job.output=x job.text_encoder={_target_:foo.Bar}", r"job.text_encoder._target_=foo.Bar cannot"),
    ("job=fetch_assets job.files=[foo]", r"job.files: foo is not in the table of pixelflow/assets.py"),
    ("job=table job.source=disk", r"job.source='disk': must be 'folders' or 'mlflow'"),
    ("job=table +job.sauce=disk", r"job.sauce is not an option of job=table; did you mean job.source"),
    ("job=sample", r"job=sample needs checkpoint=PATH"),
    ("job=evaluate", r"job=evaluate needs one of checkpoint=PATH and samples="),
    ("job=evaluate samples=nowhere", r"samples=nowhere does not exist"),
    ("job=sample checkpoint=nowhere", r"checkpoint=nowhere does not exist"),
    ("checkpoint=nowhere", r"checkpoint=nowhere does not exist"),
]


@pytest.mark.parametrize(("overrides", "message"), INVALID, ids=[overrides for overrides, _ in INVALID])
def test_invalid(overrides: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        composed(*overrides.split())
    assert re.search(message, str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 400


UNKNOWN = [
    ("cascade.num_stage=2", "unknown option cascade.num_stage; did you mean cascade.num_stages?"),
    ("bakbone=pixelflow_s", "unknown option bakbone; did you mean backbone?"),
    ("backbone=huge", "backbone=huge does not exist; one of: jit_b, jit_l"),
    ("experiments=nope", "experiments=nope does not exist; one of: "),
    ("a b=", "a b="),
    ("cascade.num_stages=${nothing}", "nothing"),
    ("backbone.width=${foo:3}", "backbone.width does not accept this value"),
]


@pytest.mark.parametrize(("override", "message"), UNKNOWN, ids=[override for override, _ in UNKNOWN])
def test_unknown(override: str, message: str) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        composed(override)
    text = explain(caught.value)
    assert message in text
    assert "\n" not in text


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError):
        composed("cascade.num_stages=9")
    assert list(tmp_path.iterdir()) == []
