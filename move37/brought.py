"""Campaigns that were imported: what their configuration would do on this machine is the user's to allow, once.

An archive says where its programs run, which endpoints are asked and which keys they are sent. Nobody here wrote that.
So an imported campaign goes on only where it asks for nothing of the kind, or with `--trust`; until then its programs
are nobody's, whichever model it says wrote them, and run in isolation.

Not covered: a store that is shared with another runs directory, which does not know what was imported from this one.
"""

from agents.opening import DEFAULT_BASE_URL
from memory.records import Campaign
from move37.config import CampaignConfig, FurtherModel, ModelConfig, stored
from move37.errors import ConfigError
from move37.models import key_variables
from move37.workspace import Workspace

_CASSETTE = "cassette "  # how the announcement of one begins (`launch`)


def asked(origin: CampaignConfig, config: CampaignConfig) -> list[str]:
    """What a configuration does with this machine and its keys because `origin` said so, in words."""
    found = []
    was, now = origin.sandbox, config.sandbox
    if "process" == was.backend == now.backend or (was.accept_unsafe and now.accept_unsafe):
        found.append("programs may run without isolation (sandbox.backend, sandbox.accept_unsafe)")
    theirs = [] if origin.model.embedded else _endpoints(origin)
    same_place = [one for one in _endpoints(config) if one.base_url in {other.base_url for other in theirs}]
    if same_place and not config.model.embedded:
        places = sorted({one.base_url or DEFAULT_BASE_URL for one in same_place})
        found.append(f"prompts and your API key go to {', '.join(places)}")
    variables = sorted(set(key_variables(origin.model)) & set(key_variables(config.model)))
    if variables:
        found.append(f"what the environment holds as {', '.join(variables)} is sent as a key")
    if not config.embeddings.hashed and config.embeddings.base_url == origin.embeddings.base_url:
        place = config.embeddings.base_url or DEFAULT_BASE_URL
        found.append(f"programs and hypotheses go to {place}, with the key for embeddings")
    return found


def _endpoints(config: CampaignConfig) -> list[ModelConfig | FurtherModel]:
    return [config.model, *config.model.fallbacks, *config.model.others]


def allow(workspace: Workspace, campaign: Campaign, *, trust: bool, config: CampaignConfig | None = None) -> None:
    """Says nothing where the campaign is one of this runs directory, or trusted (which is remembered). `config` is that
    of a fork which goes on from it; without one, its own.

    Raises:
        ConfigError: it was imported, and asks for what nobody has allowed.
    """
    if trust:
        workspace.trust(campaign.id)
    if not workspace.is_brought(campaign.id):
        return
    origin = stored(campaign.config)
    if wanted := asked(origin, config or origin):
        raise ConfigError(
            f"'{campaign.name}' was imported, and by its configuration {'; '.join(wanted)}. If you know where it comes "
            "from, --trust goes on with it as it says."
        )


def vouched_for(workspace: Workspace, campaign: Campaign) -> bool:
    """Whether a stored campaign's programs are our own grammar's: not where an archive or a cassette says so, since
    whoever can write one writes the programs."""
    of_a_cassette = any(one.startswith(_CASSETTE) for one in campaign.announcements)
    return stored(campaign.config).model.embedded and not of_a_cassette and not workspace.is_brought(campaign.id)
