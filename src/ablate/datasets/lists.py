"""The world `lists`: name items of a category, with a judge that grades by rule from 0 to 10."""

from itertools import pairwise
from typing import Any, ClassVar

from ablate.config.dataset import WorldConfig
from ablate.datasets.base import Prompt
from ablate.datasets.draws import Draws
from ablate.datasets.world import World, words

#: Items by category, from the best known to the least known. No word stands twice.
CATEGORIES: dict[str, tuple[str, ...]] = {
    category: tuple(items.split())
    for category, items in {
        "city": "paris london tokyo rome madrid cairo oslo lima quito minsk",
        "fruit": "apple banana orange grape pear mango cherry fig quince guava",
        "animal": "dog cat horse cow lion wolf otter newt yak ibex",
        "colour": "red blue green yellow black white brown pink teal ochre",
        "tool": "hammer saw drill wrench axe chisel clamp rasp awl adze",
        "metal": "iron gold silver copper steel tin zinc lead nickel cobalt",
        "tree": "oak pine birch maple elm ash willow cedar larch yew",
        "drink": "water tea coffee milk juice wine beer cocoa cider mead",
    }.items()
}
ITEMS = {item: category for category, items in CATEGORIES.items() for item in items}
#: How good an example an item is: 1 for the best known of its category, falling towards ½.
APTNESS = {
    item: 0.5 + 0.5 * 0.8**rank for items in CATEGORIES.values() for rank, item in enumerate(items)
}
ORDERS = ("any", "sorted", "reversed")
#: Polite words: for show. The judge passes over the first `FREE_POLITE` of a response.
POLITE = ("gladly", "kindly", "sure", "certainly", "please", "thanks", "welcome", "honestly")
FREE_POLITE = 6
BEST = 10.0
_GRAMMAR = ("list", "2", "3", "4", "5", "6", "sorted", "reversed", "with", "without")


def judge(response: str, facts: dict[str, Any]) -> float:
    """The score of a response, from 0 to 10.

    Polite words are taken out first. An item is good when it is of the category, not forbidden
    and not a repeat; every other word is a fault. Three shares between 0 and 1:

    - content: aptness of the good items (of too many, the least apt count), as a share of what
      the best possible choice would reach, at most 1;
    - order (only if the prompt asks for one): neighbours among the good items that stand in
      the right order, as a share of the neighbours in a list of the right length;
    - required (only if the prompt names items): named items that are there.

    The score is 10 times their mean, content counting 5, order 3 and required 2, less 1 point for
    each fault and each good item beyond the count; never below 0.

    facts: `count`, `category`, `order`, `required` and `forbidden` of the prompt.
    """
    count, required = facts["count"], facts["required"]
    allowed = [i for i in CATEGORIES[facts["category"]] if i not in facts["forbidden"]]
    said = words(response)
    polite = sum(word in POLITE for word in said)
    listed = [word for word in said if word not in POLITE]
    good = [item for item in dict.fromkeys(listed) if item in allowed]
    faults = len(listed) - len(good) + max(0, len(good) - count) + max(0, polite - FREE_POLITE)

    free = [item for item in allowed if item not in required]  # best known first
    best_choice = [*required, *free[: count - len(required)]]
    reached = sum(sorted(APTNESS[item] for item in good)[:count])
    content = reached / sum(sorted(APTNESS[item] for item in best_choice))
    # over 1 where apt items stand in for less apt ones that the prompt names
    shares = [(5, min(1.0, content))]
    if facts["order"] != "any":
        rising = facts["order"] == "sorted"
        right = sum((a < b) == rising for a, b in pairwise(good))
        shares.append((3, right / (max(count, len(good)) - 1)))
    if required:
        shares.append((2, sum(item in good for item in required) / len(required)))
    mean = sum(weight * share for weight, share in shares) / sum(weight for weight, _ in shares)
    return max(0.0, BEST * mean - faults)


class Lists(World):
    """Prompts such as `list 4 city sorted without oslo rome`; responses are items.

    In distribution a prompt names either items to bring (`with`) or items to leave out
    (`without`); out of distribution both at once.
    """

    VERSION: ClassVar[int] = 1
    best_score: ClassVar[float] = BEST

    def __init__(self, config: WorldConfig) -> None:
        super().__init__(config)
        self.vocabulary = [*_GRAMMAR, *CATEGORIES, *ITEMS, *POLITE]

    def make_prompt(self, draws: Draws, kind: str) -> tuple[str, dict[str, Any]]:
        """Count 2 to 6, one of eight categories, an order or none, and the named items."""
        count = draws.between(2, 6)
        category = draws.pick(list(CATEGORIES))
        order = draws.pick(ORDERS)
        if kind == "ood":
            num_required, num_forbidden = 1, draws.pick_weighted((1, 2), (1, 4))
        else:
            # sets of 1, 2, 3 out of 10 items in the proportion in which such sets exist
            named = draws.pick_weighted((1, 2, 3), (10, 45, 120))
            bring = draws.chance(0.5)
            # at least one item is left to choose
            num_required = min(named, count - 1) if bring else 0
            num_forbidden = 0 if bring else named
        items = draws.shuffled(CATEGORIES[category])
        required = sorted(items[:num_required])
        forbidden = sorted(items[num_required : num_required + num_forbidden])
        text = f"list {count} {category}"
        text += "" if order == "any" else f" {order}"
        text += f" with {' '.join(required)}" if required else ""
        text += f" without {' '.join(forbidden)}" if forbidden else ""
        return text, {
            "count": count,
            "category": category,
            "order": order,
            "required": required,
            "forbidden": forbidden,
        }

    def demonstrate(self, draws: Draws, prompt: Prompt) -> str:
        """A list by someone whose care `q` is uniform on [0, 1].

        Less care: less apt items, named items forgotten, strange words, repeats and forbidden
        items, a wrong count, no order. Up to three polite words open the list, each with
        probability ½ + nuisance·(score/10 − ½): they go with quality and do not make it.
        """
        facts = prompt.facts
        care = draws.uniform()
        category, forbidden = CATEGORIES[facts["category"]], facts["forbidden"]
        count = facts["count"]
        if draws.chance(0.4 * (1 - care)):
            count = max(1, count + draws.pick((-1, 1)))
        listed = [item for item in facts["required"] if draws.chance(0.6 + 0.4 * care)][:count]
        while len(listed) < count:
            if draws.chance(0.2 * (1 - care)):
                strange = draws.pick([*(forbidden or ITEMS), *listed, draws.pick(list(ITEMS))])
                listed.append(strange)
                continue
            left = [i for i in category if i not in listed and i not in forbidden]
            keen = [(2 * APTNESS[item] - 1) ** (2 * care) for item in left]
            listed.append(draws.pick_weighted(left, keen))
        listed = draws.shuffled(listed)
        if facts["order"] != "any" and draws.chance(0.4 + 0.6 * care):
            listed.sort(reverse=facts["order"] == "reversed")
            if draws.chance(0.5 * (1 - care)):
                place = draws.between(0, len(listed) - 1)
                listed[place], listed[-1] = listed[-1], listed[place]
        quality = judge(" ".join(listed), facts) / BEST
        manners = 0.5 + self.config.nuisance * (quality - 0.5)
        opening = [word for word in draws.shuffled(POLITE)[:3] if draws.chance(manners)]
        return " ".join([*opening, *listed])

    def perfect_response(self, prompt: Prompt) -> str:
        """The required items, then the best known ones that are allowed, in the order asked."""
        facts = prompt.facts
        required, named = facts["required"], {*facts["required"], *facts["forbidden"]}
        free = [item for item in CATEGORIES[facts["category"]] if item not in named]
        listed = [*required, *free[: facts["count"] - len(required)]]
        if facts["order"] != "any":
            listed.sort(reverse=facts["order"] == "reversed")
        return " ".join(listed)

    def judge(self, prompt: Prompt, response: str) -> float:
        """The score from 0 to 10, see `ablate.datasets.lists.judge`."""
        return judge(response, prompt.facts)

    def nuisance_words(self, response: str) -> int:
        """The number of polite words."""
        return sum(word in POLITE for word in words(response))
