"""Who may call what: one line an operation, declared here by hand and held against the application by the tests.

`public`      everybody; a credential changes nothing
`signed`      whoever signs the raw bytes with the source's or provider's secret; no other credential helps
`customer`    any customer, about oneself only; `customer own`: and only about one's own object
`merchant`    a merchant's key, about that merchant only; `merchant own`: and only about its own object
`ROLE SCOPE`  staff keys of the role or above; where a key is limited to scopes, of this scope
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from app.models import StaffRole

_DECLARED = """
POST   /v1/customers                                                      public
GET    /v1/me                                                             customer
PATCH  /v1/me                                                             customer
DELETE /v1/me                                                             customer
POST   /v1/me/export                                                      customer
GET    /v1/me/export                                                      customer own
POST   /v1/me/export/download                                             customer
POST   /v1/auth/token                                                     public
POST   /v1/auth/nonces                                                    public
POST   /v1/auth/revoke                                                    public
POST   /v1/auth/email-verification                                        public
POST   /v1/auth/email-verification/confirm                                public
POST   /v1/auth/password-reset                                            public
POST   /v1/auth/password-reset/confirm                                    public
POST   /v1/me/password                                                    customer
GET    /.well-known/jwks.json                                             public
GET    /v1/me/sessions                                                    customer
DELETE /v1/me/sessions/{session_id}                                       customer own
DELETE /v1/me/sessions                                                    customer
PUT    /v1/me/phone                                                       customer
POST   /v1/me/phone/verify                                                customer
POST   /v1/me/phone/remove                                                customer
POST   /v1/me/step-up                                                     customer
GET    /v1/categories                                                     public
GET    /v1/merchants                                                      public
GET    /v1/merchants/{id_or_slug}                                         public
GET    /v1/merchants/{merchant_id}/offers                                 public
GET    /v1/offers                                                         public
POST   /v1/clicks                                                         customer
GET    /r/{click_id}                                                      public
GET    /v1/me/clicks                                                      customer
GET    /v1/me/wallet                                                      customer
GET    /v1/me/wallet/entries                                              customer
GET    /v1/me/wallet/statement                                            customer
GET    /v1/me/orders                                                      customer
GET    /v1/me/orders/{order_id}                                           customer own
GET    /v1/payout-terms                                                   public
POST   /v1/me/payout-methods                                              customer
GET    /v1/me/payout-methods                                              customer
DELETE /v1/me/payout-methods/{method_id}                                  customer own
POST   /v1/me/payouts                                                     customer
GET    /v1/me/payouts                                                     customer
GET    /v1/me/payouts/{payout_id}                                         customer own
GET    /v1/me/referrals                                                   customer
POST   /v1/me/claims                                                      customer
GET    /v1/me/claims                                                      customer
GET    /v1/me/claims/{claim_id}                                           customer own
POST   /v1/me/claims/{claim_id}/withdraw                                  customer own
POST   /v1/webhooks/{source_key}                                          signed
GET    /v1/webhooks/{source_key}                                          signed
POST   /v1/payout-callbacks                                               signed
GET    /v1/merchant/delivery                                              merchant
GET    /v1/merchant/events                                                merchant
GET    /v1/merchant/events/{event_id}                                     merchant own
GET    /v1/merchant/orders                                                merchant
GET    /v1/merchant/orders/{order_id}                                     merchant own
GET    /v1/merchant/sync-runs                                             merchant
GET    /v1/merchant/sync-runs/{job_id}                                    merchant own
POST   /v1/admin/categories                                               operator catalogue:write
POST   /v1/admin/merchants                                                operator catalogue:write
PATCH  /v1/admin/merchants/{merchant_id}                                  operator catalogue:write
GET    /v1/admin/merchants                                                viewer catalogue:read
POST   /v1/admin/merchants/{merchant_id}/rates                            operator catalogue:write
GET    /v1/admin/merchants/{merchant_id}/rates                            viewer catalogue:read
POST   /v1/admin/merchants/{merchant_id}/keys                             admin merchants:keys
GET    /v1/admin/merchants/{merchant_id}/keys                             viewer merchants:keys
POST   /v1/admin/merchants/{merchant_id}/keys/{key_id}/revoke             admin merchants:keys
POST   /v1/admin/campaigns                                                finance promotions:write
GET    /v1/admin/campaigns                                                viewer promotions:read
GET    /v1/admin/campaigns/{campaign_id}                                  viewer promotions:read
PATCH  /v1/admin/campaigns/{campaign_id}                                  finance promotions:write
GET    /v1/admin/orders                                                   viewer orders:read
GET    /v1/admin/orders/{order_id}                                        viewer orders:read
POST   /v1/admin/orders/{order_id}/adjustments                            finance orders:write
PUT    /v1/admin/fraud-rules                                              admin orders:write
GET    /v1/admin/fraud-rules                                              viewer orders:read
DELETE /v1/admin/fraud-rules/{rule_id}                                    admin orders:write
POST   /v1/admin/fraud-rules/dry-run                                      viewer orders:read
GET    /v1/admin/reviews                                                  viewer orders:read
GET    /v1/admin/reviews/{order_id}                                       viewer orders:read
POST   /v1/admin/reviews/{order_id}/release                               operator orders:write
POST   /v1/admin/reviews/{order_id}/reject                                operator orders:write
GET    /v1/admin/clawbacks                                                viewer orders:read
POST   /v1/admin/exchange-rates                                           finance ledger:write
GET    /v1/admin/exchange-rates                                           viewer ledger:read
POST   /v1/admin/settlements                                              finance ledger:write
GET    /v1/admin/settlements                                              viewer ledger:read
GET    /v1/admin/settlements/{settlement_id}                              viewer ledger:read
GET    /v1/admin/settlement-lines                                         viewer ledger:read
POST   /v1/admin/settlement-lines/{line_id}/resolve                       finance ledger:write
POST   /v1/admin/settlement-lines/{line_id}/reopen                        finance ledger:write
GET    /v1/admin/payouts                                                  viewer payouts:read
GET    /v1/admin/payouts/{payout_id}                                      viewer payouts:read
POST   /v1/admin/payouts/{payout_id}/approve                              operator payouts:approve
POST   /v1/admin/payouts/{payout_id}/reject                               operator payouts:approve
GET    /v1/admin/payout-rules                                             viewer payouts:read
GET    /v1/admin/payout-rules/{currency}                                  viewer payouts:read
PUT    /v1/admin/payout-rules/{currency}                                  finance payouts:send
POST   /v1/admin/payout-batches                                           finance payouts:send
GET    /v1/admin/payout-batches                                           viewer payouts:read
GET    /v1/admin/payout-batches/{batch_id}                                viewer payouts:read
GET    /v1/admin/payout-batches/{batch_id}/file                           finance payouts:send
POST   /v1/admin/payout-batches/{batch_id}/settle                         finance payouts:send
POST   /v1/admin/payouts/{payout_id}/settle                               finance payouts:send
GET    /v1/admin/proposals                                                viewer proposals:read
GET    /v1/admin/proposals/{proposal_id}                                  viewer proposals:read
POST   /v1/admin/proposals/{proposal_id}/confirm                          operator proposals:decide
POST   /v1/admin/proposals/{proposal_id}/refuse                           operator proposals:decide
GET    /v1/admin/ledger/trial-balance                                     viewer ledger:read
GET    /v1/admin/ledger/accounts/{account}/statement                      viewer ledger:read
GET    /v1/admin/ledger/transfers/{transfer_id}                           viewer ledger:read
GET    /v1/admin/ledger/days                                              viewer ledger:read
POST   /v1/admin/ledger/months/{month}/close                              finance ledger:write
GET    /v1/admin/ledger/months                                            viewer ledger:read
GET    /v1/admin/ledger/months/{month}                                    viewer ledger:read
GET    /v1/admin/customers                                                operator customers:read
GET    /v1/admin/customers/{customer_id}                                  operator customers:read
POST   /v1/admin/customers/{customer_id}/freeze                           operator customers:write
POST   /v1/admin/customers/{customer_id}/thaw                             operator customers:write
GET    /v1/admin/customers/{customer_id}/statement                        viewer customers:read
POST   /v1/admin/referral-programs                                        finance promotions:write
GET    /v1/admin/referral-programs                                        viewer promotions:read
PATCH  /v1/admin/referral-programs/{program_id}                           finance promotions:write
GET    /v1/admin/referrals                                                viewer promotions:read
GET    /v1/admin/referrals/{referral_id}                                  viewer promotions:read
POST   /v1/admin/referrals/{referral_id}/allow                            operator promotions:write
POST   /v1/admin/referrals/{referral_id}/refuse                           operator promotions:write
GET    /v1/admin/claims                                                   viewer orders:read
GET    /v1/admin/claims/{claim_id}                                        viewer orders:read
POST   /v1/admin/claims/{claim_id}/approve                                operator orders:write
POST   /v1/admin/claims/{claim_id}/reject                                 operator orders:write
GET    /v1/admin/orphans                                                  viewer orders:read
GET    /v1/admin/orphans/{event_id}                                       viewer orders:read
POST   /v1/admin/orphans/{event_id}/match                                 operator orders:write
POST   /v1/admin/orphans/{event_id}/discard                               operator orders:write
GET    /v1/admin/source-presets                                           viewer sources:read
POST   /v1/admin/sources                                                  admin sources:write
GET    /v1/admin/sources                                                  viewer sources:read
GET    /v1/admin/sources/{source_id}                                      admin sources:read
PATCH  /v1/admin/sources/{source_id}                                      admin sources:write
PUT    /v1/admin/sources/{source_id}/definition                           admin sources:write
GET    /v1/admin/sources/{source_id}/versions                             admin sources:read
POST   /v1/admin/sources/{source_id}/dry-run                              operator sources:write
POST   /v1/admin/sources/{source_id}/rotate-secret                        admin sources:write
POST   /v1/admin/sources/{source_id}/retire-old                           admin sources:write
PUT    /v1/admin/sources/{source_id}/polling                              admin sources:write
GET    /v1/admin/sources/{source_id}/polling                              viewer sources:read
PATCH  /v1/admin/sources/{source_id}/polling                              operator sources:write
POST   /v1/admin/sources/{source_id}/poll                                 operator sources:write
POST   /v1/admin/sources/{source_id}/poll/dry-run                         operator sources:write
GET    /v1/admin/feed-presets                                             viewer feeds:read
PUT    /v1/admin/merchants/{merchant_id}/feed                             operator feeds:write
GET    /v1/admin/merchants/{merchant_id}/feed                             operator feeds:read
POST   /v1/admin/merchants/{merchant_id}/feed/dry-run                     operator feeds:write
GET    /v1/admin/webhook-events                                           viewer events:read
GET    /v1/admin/webhook-events/{event_id}                                viewer events:read
POST   /v1/admin/webhook-events/{event_id}/replay                         operator events:write
POST   /v1/admin/webhook-events/{event_id}/release                        finance events:write
POST   /v1/admin/webhook-replays                                          operator events:write
GET    /v1/admin/webhook-replays                                          viewer events:read
GET    /v1/admin/webhook-replays/{replay_id}                              viewer events:read
POST   /v1/admin/webhook-replays/{replay_id}/cancel                       operator events:write
GET    /v1/admin/alerts                                                   viewer alerts:read
POST   /v1/admin/notification-endpoints                                   admin notifications:write
GET    /v1/admin/notification-endpoints                                   viewer notifications:read
GET    /v1/admin/notification-endpoints/{endpoint_id}                     viewer notifications:read
PATCH  /v1/admin/notification-endpoints/{endpoint_id}                     admin notifications:write
POST   /v1/admin/notification-endpoints/{endpoint_id}/rotate-secret       admin notifications:write
POST   /v1/admin/notification-endpoints/{endpoint_id}/replay              operator notifications:write
GET    /v1/admin/notification-deliveries                                  viewer notifications:read
POST   /v1/admin/notification-deliveries/{delivery_id}/retry              operator notifications:write
POST   /v1/admin/staff-keys                                               admin staff:manage
GET    /v1/admin/staff-keys                                               admin staff:manage
POST   /v1/admin/staff-keys/{key_id}/rotate                               admin staff:manage
POST   /v1/admin/staff-keys/{key_id}/revoke                               admin staff:manage
GET    /v1/admin/audit-log                                                admin audit:read
GET    /v1/admin/audit-log/export                                         admin audit:read
GET    /sync/jobs                                                         viewer feeds:read
GET    /sync/jobs/{job_id}                                                viewer feeds:read
POST   /sync/{merchant_id}                                                operator feeds:write
GET    /report                                                            viewer reports:read
GET    /healthz                                                           public
GET    /livez                                                             public
GET    /readyz                                                            public
GET    /metrics                                                           public
"""

# What is asked for beside the credential, by the codes of its problems.
FURTHER = {
    # The password, or a code by phone.
    "POST /v1/me/phone/remove": {"step_up_failed"},
    "POST /v1/me/step-up": {"phone_missing"},
    # What the proposed decision needs itself.
    "POST /v1/admin/proposals/{proposal_id}/confirm": {"staff_scope_required"},
    # A key that may do no more than one's own.
    "POST /v1/admin/staff-keys/{key_id}/rotate": {"staff_key_too_powerful"},
    # The application of the tests has no pool of connections.
    "GET /readyz": {"not_ready"},
}


class Caller(StrEnum):
    """Who calls, in the order of the table's columns."""

    ANONYMOUS = "anonymous"
    CUSTOMER = "customer"
    OTHER_CUSTOMER = "another customer"
    MERCHANT = "merchant"
    OTHER_MERCHANT = "another merchant"
    VIEWER = "viewer"
    OPERATOR = "operator"
    FINANCE = "finance"
    ADMIN = "admin"
    SCOPED = "key of the scope"
    OUT_OF_SCOPE = "key of other scopes"


class Answer(StrEnum):
    """What a caller must get. What is allowed may still be refused for its content, such as 409 or 422."""

    ALLOWED = "yes"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    NOT_FOUND = "404"

    def fits(self, status: int) -> bool:
        """Whether a status is this answer. A 404 is never one that is allowed: each test names what exists."""
        if self is Answer.ALLOWED:
            return status < 500 and status not in {401, 403, 404}
        return status == int(self.value)


STAFF = (Caller.VIEWER, Caller.OPERATOR, Caller.FINANCE, Caller.ADMIN, Caller.SCOPED, Caller.OUT_OF_SCOPE)
# The owner of everything that the tests name, and who must not get it.
PAIRS = {"customer": (Caller.CUSTOMER, Caller.OTHER_CUSTOMER), "merchant": (Caller.MERCHANT, Caller.OTHER_MERCHANT)}


@dataclass(frozen=True)
class Operation:
    """One line."""

    method: str
    path: str
    access: str

    @property
    def name(self) -> str:
        """As in `GET /v1/me`."""
        return f"{self.method} {self.path}"

    @property
    def kind(self) -> str:
        """`public`, `signed`, `customer`, `merchant`, or `staff`."""
        first = self.access.split()[0]
        return first if first in {"public", "signed", *PAIRS} else "staff"

    @property
    def is_of_objects(self) -> bool:
        """Whether it names an object that has one owner."""
        return self.access.endswith(" own")

    @property
    def scope(self) -> str | None:
        """The scope that a staff key needs which is limited to scopes."""
        return self.access.split()[1] if self.kind == "staff" else None

    def expected(self, caller: Caller) -> Answer:
        """What the caller must get, when it names an object of the first customer and the first merchant."""
        judge: Callable[[Caller], Answer] = {
            "public": lambda _: Answer.ALLOWED,
            "signed": lambda _: Answer.UNAUTHORIZED,
            "staff": self._of_staff,
        }.get(self.kind, self._of_owner)
        return judge(caller)

    def _of_owner(self, caller: Caller) -> Answer:
        owner, other = PAIRS[self.kind]
        if caller not in {owner, other}:
            return Answer.UNAUTHORIZED
        return Answer.NOT_FOUND if caller is other and self.is_of_objects else Answer.ALLOWED

    def _of_staff(self, caller: Caller) -> Answer:
        if caller not in STAFF:
            return Answer.UNAUTHORIZED
        if caller is Caller.OUT_OF_SCOPE:
            return Answer.FORBIDDEN
        held = StaffRole.ADMIN if caller is Caller.SCOPED else StaffRole(caller.value)
        return Answer.ALLOWED if held.rank >= StaffRole(self.access.split()[0]).rank else Answer.FORBIDDEN


OPERATIONS = tuple(Operation(*line.split(maxsplit=2)) for line in _DECLARED.strip().splitlines())
