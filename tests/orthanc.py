"""A real PACS for tests: Orthanc with its DICOMweb plug-in on a free loopback port, in a folder of its own."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Orthanc:
    """Started on creation; `stop` and `start` keep what is stored."""

    def __init__(self, folder):
        program = shutil.which("Orthanc") or (
            "/usr/sbin/Orthanc" if Path("/usr/sbin/Orthanc").exists() else None
        )
        if program is None or not PLUGIN.exists():
            if os.environ.get("CI"):
                pytest.fail("Orthanc is missing; install orthanc and orthanc-dicomweb")
            pytest.skip("Orthanc is missing; install orthanc and orthanc-dicomweb")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/dicom-web"
        config = {
            "Name": "test", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
            "HttpPort": self.port, "DicomServerEnabled": False, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True, "RegisteredUsers": {"u": "p"}, "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True},
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(config))
        self.command, self.log, self.process = (
            [program, str(folder / "orthanc.json")],
            folder / "log",
            None,
        )
        self.start()

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        until = time.monotonic() + 20
        while time.monotonic() < until and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/system", timeout=2)
            except urllib.error.HTTPError:  # it wants credentials, so it is there
                return
            except OSError:
                time.sleep(0.05)
        pytest.fail(f"Orthanc does not start: {self.log.read_text(errors='replace')[-2000:]}")

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process = None
