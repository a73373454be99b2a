import { formatAddress, parseEndpoint, type Address } from "./address.js";
import { MovePhase, type Move, type RealmRecord } from "./gen/valise/v1/valise_pb.js";
import { MOVES_PER_MINUTE, REALM_RECORD_LIST_MAX } from "./limits.js";

/** Where a client's realm is served, and which place is tried when. */
export class Route {
  #listed: readonly string[] = [];
  #preferred: readonly string[] = [];
  // Those that did not answer, or said that they do not serve what was asked; the latest last.
  #later: string[] = [];
  readonly #obeyed: number[] = [];
  readonly #learnt: number[] = [];

  constructor(
    readonly given: Address,
    private readonly mayDial: (host: string) => boolean = () => true,
  ) {}

  /** This record counts from now on. */
  learn({ endpoints }: Pick<RealmRecord, "endpoints">): void {
    this.#listed = endpoints;
    this.#preferred = this.#preferred.filter((endpoint) => endpoints.includes(endpoint));
  }

  /** Whether there is a record that does not list what was given: it may be anybody's by now. */
  get givenIsLeft(): boolean {
    const given = formatAddress(this.given);
    return this.#listed.length > 0 && !this.#places(this.#listed).some((place) => formatAddress(place) === given);
  }

  /** Whether one more record may be learnt from a `Move` within this minute: each is written down. */
  mayLearn(now: number): boolean {
    return atMost(MOVES_PER_MINUTE, this.#learnt, now);
  }

  /** What to try, in order. What was given is judged by whoever gave it. */
  candidates(): Address[] {
    const known = new Map([[formatAddress(this.given), this.given]]);
    const preferred = this.#places(this.#preferred);
    const all = [...preferred, this.given, ...this.#places(this.#listed)];
    for (const place of all) known.set(formatAddress(place), place);
    const texts = [...new Set(all.map(formatAddress))];
    const rank = (text: string): number => this.#later.indexOf(text); // -1: not among them
    return texts.sort((a, b) => rank(a) - rank(b)).map((text) => known.get(text)!);
  }

  /** As {@link candidates}, without the place where one is. */
  others(at: Address): Address[] {
    return this.candidates().filter((place) => formatAddress(place) !== formatAddress(at));
  }

  /** This place is tried after all others. */
  later(at: Address): void {
    const text = formatAddress(at);
    this.#later = [...this.#later.filter((other) => other !== text), text];
  }

  /** What was asked is served there. */
  found(at: Address): void {
    this.#later = this.#later.filter((other) => other !== formatAddress(at));
  }

  /** Where to go because of a `Move` that came from `at`; undefined where it is to be ignored. Its record was learnt. */
  judge({ phase, endpoints }: Pick<Move, "phase" | "endpoints">, at: Address, now: number): Address[] | undefined {
    if (phase !== MovePhase.GO) return undefined; // PREPARE may be ignored
    if (endpoints.length < 1 || endpoints.length > REALM_RECORD_LIST_MAX) return undefined;
    if (!endpoints.every((endpoint) => this.#listed.includes(endpoint))) return undefined;
    const places = this.#places(endpoints);
    if (places.length !== endpoints.length || formatAddress(places[0]!) === formatAddress(at)) return undefined;
    if (!atMost(MOVES_PER_MINUTE, this.#obeyed, now)) return undefined;
    this.#preferred = [...endpoints];
    places.forEach((place) => this.found(place));
    return places.filter((place) => formatAddress(place) !== formatAddress(at));
  }

  #places(endpoints: readonly string[]): Address[] {
    return endpoints.flatMap((endpoint) => {
      const place = parseEndpoint(endpoint);
      return place && this.mayDial(place.host) ? [{ ...place, realm: this.given.realm }] : [];
    });
  }
}

/** Whether something may be done once more within this minute; notes that it is. */
function atMost(most: number, done: number[], now: number): boolean {
  while (done.length > 0 && now - done[0]! >= 60_000) done.shift();
  if (done.length >= most) return false;
  done.push(now);
  return true;
}
