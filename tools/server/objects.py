"""The object store: SeaweedFS, which speaks S3; one bucket for MLflow, one for DVC's remote."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from tools.server.certificates import make_certificate
from tools.server.daemons import Daemon
from tools.server.folder import HOST, INSTALL, Folder, ServerError, write_private

MLFLOW_BUCKET = "mlflow"
DVC_BUCKET = "dvc"
# S3 clients sign requests for a region; the store accepts any.
REGION = "us-east-1"

_START_SECONDS = 60
# Objects are stored in volumes of this size; a bucket gets a new one when its volumes are full.
_VOLUME_MB = 1024
_VOLUMES = 10_000
# With less free space it rejects objects; starting takes twice as much.
_FREE_MB = 256

_CERTIFICATE, _KEY = "certificate.pem", "key.pem"
_PARTS = ("master", "volume", "filer")


class Objects(Daemon):
    """The object store of a folder."""

    def __init__(self, folder: Folder) -> None:
        super().__init__("the object store", folder.root / "objects")
        self._folder = folder

    @property
    def address(self) -> str:
        """The address that it listens on."""
        return f"http://{HOST}:{self._folder.ports.objects}"

    def check(self) -> None:
        """Check that it is installed.

        Raises:
            ServerError: It is missing.
        """
        _program()

    def start(self) -> None:
        """Start it and create the buckets.

        Raises:
            ServerError: The disk is nearly full, or it does not start.
        """
        if not self.is_running():
            self._check_space()
            self._write_identities()
            certificate, key = make_certificate(HOST)
            write_private(self.place / _CERTIFICATE, certificate)
            write_private(self.place / _KEY, key)
            write_private(self.place / "security.toml", _security())
            # Add one volume at a time to a bucket, not seven: enough for a team's uploads.
            growth = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
            self.launch(self._command(), {**os.environ, **growth, "TMPDIR": str(self.place)})
        self.wait_until(self._has_buckets, _START_SECONDS)

    def stop(self) -> bool:
        """Stop it; return whether it was running."""
        stopped = super().stop()
        ports = self._folder.ports
        # SeaweedFS leaves these files if it is killed; their path cannot be configured.
        for part, port in (
            ("master", ports.master_grpc),
            ("volume", ports.volume_grpc),
            ("filer", ports.filer_grpc),
            ("s3", ports.objects_grpc),
        ):
            Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock").unlink(missing_ok=True)
        return stopped

    def _command(self) -> list[str]:
        ports = self._folder.ports
        data = self.place / "data"
        data.mkdir(exist_ok=True)
        return [
            _program(), f"-logdir={self.place}", "server", f"-dir={data}", f"-ip={HOST}",
            f"-ip.bind={HOST}", f"-master.port={ports.master}",
            f"-master.port.grpc={ports.master_grpc}", "-master.telemetry=false",
            f"-master.volumeSizeLimitMB={_VOLUME_MB}", f"-volume.port={ports.volume}",
            f"-volume.port.grpc={ports.volume_grpc}", "-volume.preStopSeconds=0",
            # The default depends on the free space: on a small disk, one bucket could take all
            # volumes, and the other's objects would be rejected.
            f"-volume.max={_VOLUMES}", f"-volume.minFreeSpace={_FREE_MB}MiB",
            # The filer's web pages would serve every file without a key.
            "-filer", "-filer.disableHttp", f"-filer.port={ports.filer}",
            f"-filer.port.grpc={ports.filer_grpc}", "-filer.localSocket=filer.sock",
            "-s3", f"-s3.port={ports.objects}", f"-s3.port.grpc={ports.objects_grpc}",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.localSocket=s3.sock",
            "-s3.autoCreateBucket=false", "-s3.config=identities.json",
        ]  # fmt: skip

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.place).free // 2**20
        if free < 2 * _FREE_MB:
            raise ServerError(
                f"the disk of {self.place} has {free} MB free, {self.name} needs "
                f"{2 * _FREE_MB}; free some space or choose another --data"
            )

    def admit_members(self) -> None:
        """Make the running store accept the keys of all members.

        It continues to accept the key of a member who was removed until it is started again.
        """
        self._write_identities()
        process = self.process()
        if process is not None:
            process.send_signal(signal.SIGHUP)

    def _write_identities(self) -> None:
        """Write the access rules: MLflow and each member have a separate key."""
        secrets = self._folder.secrets
        of_mlflow = [f"{action}:{MLFLOW_BUCKET}" for action in ("Read", "Write", "List")]
        # Members have rights to the objects of DVC's cache, not to the bucket: whoever may write to
        # that may also set rules that delete all objects after a day.
        of_member = [f"List:{DVC_BUCKET}"] + [
            f"{action}:{DVC_BUCKET}/{folder}/*"
            for folder in ("files", "runs")
            for action in ("Read", "Write")
        ]
        rules = [
            ("admin", secrets.objects_admin, ["Admin"]),
            ("mlflow", secrets.objects_mlflow, of_mlflow),
            *((f"member-{name}", k, of_member) for name, k in self._folder.members().items()),
        ]
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": keys.access, "secretKey": keys.secret}],
                "actions": actions,
            }
            for name, keys, actions in rules
        ]
        write_private(self.place / "identities.json", json.dumps({"identities": identities}))

    def _has_buckets(self) -> bool:
        """Create missing buckets; return whether all exist."""
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        keys = self._folder.secrets.objects_admin
        client = boto3.client(
            "s3", endpoint_url=self.address, region_name=REGION,
            aws_access_key_id=keys.access, aws_secret_access_key=keys.secret,
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5),
        )  # fmt: skip
        try:
            existing = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
            for bucket in {MLFLOW_BUCKET, DVC_BUCKET} - existing:
                client.create_bucket(Bucket=bucket)
        except (BotoCoreError, ClientError):
            return False
        return True


def _security() -> str:
    """Return settings by which the parts of the store accept nobody but each other.

    By default, they give any local user the objects, and the keys of all members.
    """
    authority = f'ca = "{_CERTIFICATE}"\n'
    own = f'cert = "{_CERTIFICATE}"\nkey = "{_KEY}"\n'
    sections = [f"[grpc]\n{authority}"]
    sections += [f"[grpc.{part}]\n{own}" for part in (*_PARTS, "s3", "client")]
    sections += [f"[https.{part}]\n{own}{authority}" for part in _PARTS]
    return "".join([*sections, f"[https.client]\n{own}{authority}enabled = true\n"])


def _program() -> str:
    """Return the path of SeaweedFS's program.

    Raises:
        ServerError: It is not installed.
    """
    installed = Path(sys.executable).with_name("weed")
    program = str(installed) if installed.exists() else shutil.which("weed")
    if program is None:
        raise ServerError(f"weed, the program of SeaweedFS, is missing; {INSTALL}")
    return program
