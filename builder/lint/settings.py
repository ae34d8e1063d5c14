"""Which rules count: the ``check`` directive and its names."""

from __future__ import annotations

from builder.dockerfile.suggest import did_you_mean
from builder.errors import DockerfileError
from builder.switches import read_switch
from unionfs.namedtuple import NamedTuple

RULES = {
    "StageNameCasing": "stage names should be lower case",
    "FromAsCasing": "AS should have the case of FROM",
    "NoEmptyContinuation": "blank lines should not interrupt a continued instruction",
    "ConsistentInstructionCasing": "keywords should all be upper case or all lower case",
    "DuplicateStageName": "stage names should be unique",
    "ReservedStageName": "stages should not be called scratch or context",
    "JSONArgsRecommended": "CMD and ENTRYPOINT should be JSON arrays, so that signals arrive",
    "MaintainerDeprecated": "MAINTAINER is deprecated in favour of a label",
    "UndefinedArgInFrom": "variables in FROM should be declared by ARG before it",
    "WorkdirRelativePath": "the first WORKDIR of a file should be absolute",
    "UndefinedVar": "variables should be defined before they are used",
    "MultipleInstructionsDisallowed": "CMD, ENTRYPOINT and HEALTHCHECK should stand once in a stage",
    "LegacyKeyValueFormat": "ENV and LABEL should have the form name=value",
    "InvalidBaseImagePlatform": "a base image should be for the platform of its stage",
    "RedundantTargetPlatform": "--platform=$TARGETPLATFORM is the default",
    "SecretsUsedInArgOrEnv": "secrets should not be in ARG or ENV",
    "InvalidDefaultArgInFrom": "FROM should be valid with the defaults of its arguments",
    "FromPlatformFlagConstDisallowed": "--platform of FROM should not be a constant",
    "CopyIgnoredFile": "COPY and ADD should not name what the ignore file leaves out",
    "InvalidDefinitionDescription": "a comment right above FROM … AS or ARG should begin with the name it describes",
    "ExposeProtoCasing": "protocols in EXPOSE should be lower case",
    "ExposeInvalidFormat": "EXPOSE should name ports of the container alone",
}
"""Every rule and what it asks for."""

EXPERIMENTAL = frozenset({"InvalidDefinitionDescription"})
"""Rules that count only when they are named."""

OF_STAGES = frozenset(
    {
        "CopyIgnoredFile",
        "ExposeInvalidFormat",
        "ExposeProtoCasing",
        "InvalidBaseImagePlatform",
        "JSONArgsRecommended",
        "LegacyKeyValueFormat",
        "MultipleInstructionsDisallowed",
        "SecretsUsedInArgOrEnv",
        "UndefinedVar",
        "WorkdirRelativePath",
    }
)
"""Rules about what an instruction does: a build asks them of the stages it needs, a check of all."""


class Settings(NamedTuple):
    """Rules left out, experimental rules taken in (``all`` stands for every one), and whether findings are errors."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    def wants(self, rule: str) -> bool:
        """Return whether findings of ``rule`` count."""
        if rule in EXPERIMENTAL:
            return bool(self.experimental & {rule, "all"})
        return not self.skip & {rule, "all"}

    def merged(self, other: Settings) -> Settings:
        """Return both together."""
        return Settings(self.skip | other.skip, self.experimental | other.experimental, self.error or other.error)


def parse_settings(directive: str) -> Settings:
    """Return what ``skip=A,B;error=true;experimental=all`` says; the empty text says nothing.

    Raises:
        DockerfileError: an option, a rule or a value is unknown.
    """
    settings = Settings()
    for part in directive.split(";") if directive.strip() else ():
        name, equals, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or name not in Settings._fields:
            raise DockerfileError(f"check: unknown option {part.strip()!r}", hints=did_you_mean(name, Settings._fields))
        if name == "error":
            is_error = read_switch(value)
            if is_error is None:
                raise DockerfileError(f"check: error must be true or false, got {value!r}")
            settings = settings._replace(error=is_error)
            continue
        names = frozenset(rule.strip() for rule in value.split(","))
        for rule in sorted(names - {"all"}):
            if rule not in RULES:
                raise DockerfileError(f"check: unknown rule {rule!r}", hints=did_you_mean(rule, RULES))
        settings = settings.merged(Settings(skip=names) if name == "skip" else Settings(experimental=names))
    return settings
