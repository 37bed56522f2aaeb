// The same orders and answers as in protocol.py, for contenders that run in Node.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// Peers are installed in a folder of their own, not beside this file.
export const peer = createRequire(`${process.env.BENCH_MODULES}/`);

export const monotonic = () => Number(process.hrtime.bigint()) / 1e9;
const LATEST = 2000;

class Ran {
  expect(count) {
    this.count = 0;
    this.first = this.last = 0;
    this.latest = [];
    this.expected = count;
    this.all = new Promise((resolve) => (this.reached = resolve));
  }
  // Called once by each task, with its id.
  one(id) {
    if (this.count === 0) this.first = monotonic();
    this.count += 1;
    if (this.expected - this.count < LATEST) this.latest.push(id);
    if (this.count === this.expected) {
      this.last = monotonic();
      this.reached();
    }
  }
}

export async function spread(count, clients, work) {
  const client = async (share) => {
    for (let done = 0; done < share; done += 1) await work();
  };
  const share = (number) => Math.floor(count / clients) + (number < count % clients ? 1 : 0);
  await Promise.all(Array.from({ length: clients }, (_, number) => client(share(number))));
}

async function timed(work) {
  const began = monotonic();
  await work;
  return { seconds: monotonic() - began };
}

async function obey(contender, ran, order) {
  switch (order.do) {
    case "enqueue":
      return timed(contender.enqueue(order.count, order.clients));
    case "bulk":
      return timed(contender.bulk(order.count, order.size));
    case "probe":
      return { at: await contender.probe() };
    case "expect":
      return ran.expect(order.count) ?? {};
    case "start":
      return (await contender.start((id) => ran.one(id))) ?? {};
    case "ran":
      await ran.all;
      return { first: ran.first, last: ran.last, latest: ran.latest.map(String) };
    case "count":
      return { count: ran.count };
    case "open":
      return (await contender.open(order.install)) ?? {};
    case "stop":
      return (await contender.stop()) ?? {};
    case "close":
      return (await contender.close()) ?? {};
    default:
      throw new Error(`no order ${order.do}`);
  }
}

export async function serve(contender) {
  const answer = process.stdout.write.bind(process.stdout);
  process.stdout.write = process.stderr.write.bind(process.stderr); // whatever a library prints is no answer
  const ran = new Ran();
  ran.expect(0);
  for await (const line of createInterface({ input: process.stdin })) {
    answer(`${JSON.stringify(await obey(contender, ran, JSON.parse(line)))}\n`);
  }
  process.exit(0);
}
