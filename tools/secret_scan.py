"""Looks for secrets in what git tracks: `python -m tools.secret_scan`, in seconds and without a network.

What the detectors take for one and is none is in the baseline, by a digest; `--accept` writes it anew after a look.
Passwords of tests are no secrets: the detector of assignments to words such as `password` stays out, and that of hex,
which takes every revision and digest for one.
"""

import json
import subprocess
import sys
from pathlib import Path

from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import transient_settings

ROOT = Path(__file__).resolve().parent.parent
BASELINE = "tools/secrets.baseline.json"
# Digests of packages, figures, and pages of others.
_UNREAD = (".lock", "package-lock.json", BASELINE, ".xsd")
_DETECTORS = [
    "ArtifactoryDetector",
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "CloudantDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "JwtTokenDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
]
_SETTINGS = {
    "plugins_used": [
        *({"name": name} for name in _DETECTORS),
        {"name": "Base64HighEntropyString", "limit": 4.8},
    ],
    "filters_used": [
        {"path": "detect_secrets.filters.allowlist.is_line_allowlisted"},
        {"path": "detect_secrets.filters.heuristic.is_templated_secret"},
        {"path": "detect_secrets.filters.heuristic.is_indirect_reference"},
    ],
}


def scan(root: Path, files: list[str]) -> SecretsCollection:
    """Return what the detectors find in files, named from root."""
    found = SecretsCollection(root=str(root))
    with transient_settings(_SETTINGS):
        for file in files:
            if not file.endswith(_UNREAD):
                found.scan_file(file)
    return found


def main(arguments: list[str]) -> int:
    """Print what is new and return 1 when there is any."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    found = list(scan(ROOT, [file for file in tracked if file]))
    # Without line numbers, so that the baseline changes only when a finding does.
    digests = sorted({f"{file}: {secret.type}: {secret.secret_hash}" for file, secret in found})
    kept = ROOT / BASELINE
    if arguments == ["--accept"]:
        kept.write_text(json.dumps(digests, indent=2) + "\n")
        return 0
    known = set(json.loads(kept.read_text()))
    new = [(file, s) for file, s in found if f"{file}: {s.type}: {s.secret_hash}" not in known]
    for file, secret in new:
        sys.stderr.write(f"{file}:{secret.line_number}: {secret.type}\n")
    if new:
        sys.stderr.write("Looks like a secret. If it is one, revoke it: what was committed is known. If it is none,\n")
        sys.stderr.write("say so beside it (pragma: allowlist secret), or: python -m tools.secret_scan --accept\n")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
