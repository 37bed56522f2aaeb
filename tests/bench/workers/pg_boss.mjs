// pg-boss: large batches, fetched without a pause while they come back full. One queue for volume, and one with NOTIFY for latency.
import { monotonic, peer, serve, spread } from "./protocol.mjs";

const { PgBoss } = peer("pg-boss");

const VOLUME = "measured";
const QUICK = "measured-quick";
const BATCH = 1000;
const WORKERS = 2;

class Contender {
  constructor(dsn) {
    this.boss = new PgBoss({ connectionString: dsn, max: 16, useListenNotify: true });
    this.boss.on("error", (error) => console.error(error));
  }
  async open(install) {
    await this.boss.start();
    if (!install) return;
    await this.boss.createQueue(VOLUME);
    await this.boss.createQueue(QUICK, { notify: true });
  }
  async enqueue(count, clients) {
    await spread(count, clients, () => this.boss.send(VOLUME, {}));
  }
  async bulk(count, size) {
    const jobs = Array.from({ length: size }, () => ({ data: {} }));
    for (let made = 0; made < count; made += size) await this.boss.insert(VOLUME, jobs);
  }
  async probe() {
    await this.boss.send(QUICK, {});
    return monotonic();
  }
  async start(ran) {
    const handler = async (jobs) => {
      for (const job of jobs) ran(job.id);
    };
    const volume = { batchSize: BATCH, localConcurrency: WORKERS, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 };
    await this.boss.work(VOLUME, volume, handler);
    await this.boss.work(QUICK, {}, handler);
  }
  async stop() {
    await this.boss.offWork(VOLUME);
    await this.boss.offWork(QUICK);
  }
  async close() {
    await this.boss.stop();
  }
}

await serve(new Contender(process.argv[2]));
