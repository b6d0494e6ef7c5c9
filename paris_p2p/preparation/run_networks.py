"""Loads the networks that a prepared folder's clips were made with, so that more clips are made alike."""

from __future__ import annotations

from pathlib import Path

from paris_p2p.codec.text import load_text_encoder
from paris_p2p.codec.video import find_codec, latent_shape, load_codec
from paris_p2p.data.prepared import Prepared, PreparedModel
from paris_p2p.disk import temporary_for
from paris_p2p.errors import BlobError, DataError, SealError
from paris_p2p.features.image import load_features, of_first_frames
from paris_p2p.keyring import RunKey
from paris_p2p.preparation.create import load_run
from paris_p2p.preparation.networks import Networks, PrepareOptions
from paris_p2p.preparation.owner_shards import OwnerShards
from paris_p2p.spec import Pinned
from paris_p2p.store.blob_files import hash_file
from paris_p2p.store.sealing import seal_file


def networks_of_run(run: Path, prepared: Prepared, options: PrepareOptions) -> Networks:
    """Returns the run's own codec, text encoder and feature network, each checked by its hash.

    BlobError where one is not what the run was made with, UsageError or PresetError where it is not here,
    DataError where it gives other latents.
    """
    signed = load_run(run)
    spec, ring = signed.record, OwnerShards(run, signed).ring
    if spec.private and not ring.keys:
        raise SealError(f"the keys of the private run in {run} are not there; restore them from a backup")
    for pinned, model in ((spec.codec, prepared.codec), (spec.text, prepared.text)):
        _check_files(run, pinned, model, ring.keys[0] if spec.private else None)
    device, codec_pin, text_pin = options.device, prepared.codec, prepared.text
    folder = _folder(run, codec_pin)
    pins = {"revision": codec_pin.revision, "sha256": codec_pin.sha256}
    codec = load_codec(codec_pin.name, folder, device=device, **pins)
    text = load_text_encoder(
        text_pin.name,
        _folder(run, text_pin),
        tokens=prepared.text_shape.tokens,
        revision=text_pin.revision,
        sha256=text_pin.sha256,
        device=device,
    )
    features = load_features(
        prepared.features.name,
        frames=options.feature_frames,
        sha256=prepared.features.sha256,
        device=device,
    )
    found = latent_shape(codec, prepared.clip)
    if found != prepared.latent:
        raise DataError(
            f"the codec {codec.name} makes latents of {found.shape}, the run has {prepared.latent.shape}; "
            f"restore {run / 'codec'} from a backup"
        )
    files = None if codec_pin.name == "pca" else find_codec(codec_pin.name, folder, codec_pin.revision)
    first = of_first_frames(features) if prepared.first_features is not None else None
    return Networks(
        codec, files, text, features, prepared.codec_psnr_db, codec_pin.name, prepared.pca_psnr_db, first
    )


def _folder(run: Path, model: PreparedModel) -> Path | None:
    """Returns where a model's files lie in the run's folder; None for a package's or a hub's model."""
    return (run / next(iter(model.files.values()))).parent if model.files else None


def _check_files(run: Path, pinned: Pinned, model: PreparedModel, key: RunKey | None) -> None:
    for name, path in model.files.items():
        known = pinned.files.get(name)
        if known is None or _blob_id(run / path, key) != known.id:
            raise BlobError(
                f"{run / path} is not the file that the run was created with; restore it from a backup: "
                "clips that another model encoded would not go with the run's"
            )


def _blob_id(path: Path, key: RunKey | None) -> str:
    """Returns the id of the blob that a file makes in a run, sealed under `key` where that is private."""
    if key is None:
        return hash_file(path).blob_id
    sealed = temporary_for(path)
    try:
        with sealed.open("xb") as out:
            seal_file(path, key, out)
        return hash_file(sealed).blob_id
    finally:
        sealed.unlink(missing_ok=True)
