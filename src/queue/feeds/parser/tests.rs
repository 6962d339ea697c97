use proptest::prelude::*;

use super::*;

fn feed(text: &str) -> Feed {
    parse(text, &"http://f.example/feeds/all.xml?key=1".parse().unwrap()).unwrap()
}

fn rss(items: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>F</title>{items}</channel></rss>"
    )
}

fn one(item: &str) -> Item {
    let mut items = feed(&rss(&format!("<item>{item}</item>"))).items;
    assert_eq!(items.len(), 1);
    items.remove(0)
}

fn link(item: &Item) -> Option<&str> {
    item.link.as_ref().map(Url::as_str)
}

#[test]
fn rss_2_items_have_titles_guids_links_dates_and_enclosures() {
    let text = rss(
        "<ttl> 90 </ttl><atom:link href=\"self\" rel=\"self\"/><image><title>I</title></image><item>\
         <title>A &amp; B</title><guid isPermaLink=\"false\"> id-1 </guid><link>https://f.example/a</link>\
         <media:title>other</media:title><pubDate>Mon, 02 Nov 2020 11:00:00 GMT</pubDate>\
         <enclosure url=\"https://f.example/a.torrent?x=1&amp;y=2\" length=\"12\" type=\"application/x-bittorrent\"/>\
         <source url=\"http://o\"><title>no</title></source></item>",
    );
    let feed = feed(&text);
    assert_eq!((feed.title.as_str(), feed.ttl_minutes, &feed.damage), ("F", Some(90), &None));
    let item = &feed.items[0];
    assert_eq!((item.title.as_str(), item.guid.as_deref()), ("A & B", Some("id-1")));
    assert_eq!((link(item), item.date), (Some("https://f.example/a"), Some(1_604_314_800)));
    assert_eq!(item.source().unwrap(), "https://f.example/a.torrent?x=1&y=2");
}

#[test]
fn rss_1_items_are_named_by_rdf_about() {
    let item = &feed(
        "<rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\" xmlns=\"http://purl.org/rss/1.0/\">\
         <channel rdf:about=\"http://f\"><title>C</title></channel><item rdf:about=\"http://f/1\"><title>T</title>\
         <link>http://f/1</link><dc:date>2020-11-02T12:00:00+01:00</dc:date></item></rdf:RDF>",
    )
    .items[0];
    assert_eq!((item.guid.as_deref(), link(item)), (Some("http://f/1"), Some("http://f/1")));
    assert_eq!((item.title.as_str(), item.date), ("T", Some(1_604_314_800)));
}

#[test]
fn atom_entries_have_links_by_relation_and_titles_by_type() {
    let text = |prefix: &str| {
        let text = "<feed xmlns=\"http://www.w3.org/2005/Atom\" xml:base=\"http://b.example/x/\"><title>F</title>\
         <entry><id>urn:1</id><title type=\"html\">&lt;b&gt;T&lt;/b&gt;</title><link rel=\"self\" href=\"self\"/>\
         <link href=\"page\"/><link rel=\"enclosure\" type=\"audio/ogg\" length=\"7\" href=\"/a.ogg\"/>\
         <updated>2020-11-02T11:00:00Z</updated></entry>\
         <entry><id>urn:2</id><title type=\"xhtml\"><div>1 <i>2</i> 3</div></title></entry>\
         <entry><id>urn:3</id><title>a &lt;b&gt; c</title></entry></feed>";
        match prefix {
            "" => text.to_owned(),
            prefix => {
                let text = text.replace("</", "\u{1}").replace('<', &format!("<{prefix}:"));
                text.replace('\u{1}', &format!("</{prefix}:"))
            }
        }
    };
    for prefix in ["", "a"] {
        let feed = feed(&text(prefix));
        let titles: Vec<_> = feed.items.iter().map(|item| item.title.as_str()).collect();
        assert_eq!(titles, ["T", "1 2 3", "a <b> c"], "{prefix}");
        let item = &feed.items[0];
        assert_eq!(link(item), Some("http://b.example/x/page"));
        assert_eq!(item.source().as_deref(), Some("http://b.example/a.ogg"));
        assert_eq!((item.size(), item.date), (Some(7), Some(1_604_314_800)));
    }
}

#[test]
fn torznab_attributes_and_torrent_elements_are_read() {
    let hash = "ab".repeat(20);
    let item = one(&format!(
        "<torznab:attr name=\"size\" value=\"1000\"/><torznab:attr name=\"magneturl\" value=\"magnet:?xt=urn:btih:1&amp;dn=x\"/>\
         <newznab:attr name=\"infohash\" value=\"{hash}\"/><torznab:attr name=\"magneturl\" value=\"javascript:x\"/>"
    ));
    assert_eq!(
        (item.size, item.magnet.as_deref()),
        (Some(1000), Some("magnet:?xt=urn:btih:1&dn=x"))
    );
    assert_eq!(item.info_hash.as_deref(), Some(hash.as_str()));
    let item = one(&format!(
        "<title>t</title><torrent><infoHash>{hash}</infoHash><contentLength>5</contentLength></torrent>\
         <torrent:magnetURI><![CDATA[magnet:?xt=urn:btih:2]]></torrent:magnetURI><guid>g</guid>"
    ));
    assert_eq!((item.title.as_str(), item.size, item.guid.as_deref()), ("t", Some(5), Some("g")));
    assert_eq!(item.magnet.as_deref(), Some("magnet:?xt=urn:btih:2"));
}

#[test]
fn titles_in_cdata_and_html_become_one_plain_line() {
    let title = |text: &str| one(&format!("<title>{text}</title>")).title;
    assert_eq!(title("<![CDATA[ <b>A</b> &amp; B ]]>"), "A & B");
    assert_eq!(title("&lt;img src=x onerror=alert(1)&gt;A&nbsp;&hellip;"), "A …");
    assert_eq!(title("A<br/>B\n C &unknown; D & E"), "AB C &unknown; D & E");
    assert_eq!(title("<![CDATA[a]]> <![CDATA[b]]>"), "a b");
}

#[test]
fn links_may_be_relative_and_items_without_a_guid_or_link_are_read() {
    let item = one("<link> ../dl/a%20b.torrent </link>");
    assert_eq!(link(&item), Some("http://f.example/dl/a%20b.torrent"));
    assert_eq!((item.guid.is_none(), item.key().is_some()), (true, true));
    assert_eq!(one("<title>x</title>").key(), None);
    assert_eq!(link(&one("<link>http://[bad</link>")), None);
    assert_eq!(link(&one("<link></link><atom:link href=\"/y\"/>")), Some("http://f.example/y"));
}

#[test]
fn bad_dates_are_none() {
    for (text, wanted) in [
        ("Mon, 02 Nov 2020 12:00:00 +0100", Some(1_604_314_800)),
        ("2 Nov 2020 06:00 EST", Some(1_604_314_800)),
        ("2020-11-02T11:00:00.5Z", Some(1_604_314_800)),
        ("yesterday", None),
        ("0001-01-01T00:00:00Z", None),
        ("2020-13-45T00:00:00Z", None),
        ("", None),
    ] {
        assert_eq!(one(&format!("<pubDate>{text}</pubDate>")).date, wanted, "{text}");
    }
}

#[test]
fn entities_of_a_document_type_are_not_expanded() {
    let mut entities = "<!ENTITY a0 \"lol\">".to_owned();
    for n in 1..10 {
        let many = format!("&a{};", n - 1).repeat(10);
        entities.push_str(&format!("<!ENTITY a{n} \"{many}\">"));
    }
    let text = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE rss [{entities}<!ENTITY x SYSTEM \"file:///etc/passwd\">]>\
         <rss><channel><item><title>&a9;&x;</title><guid>&a9;</guid></item></channel></rss>"
    );
    let feed = feed(&text);
    assert_eq!(
        (feed.items[0].title.as_str(), feed.items[0].guid.as_deref()),
        ("&a9;&x;", Some("&a9;"))
    );
}

#[test]
fn long_titles_are_cut_and_other_long_texts_are_ignored() {
    let long = "é".repeat(3 << 20);
    let item =
        one(&format!("<title>{long}</title><guid>{long}</guid><link>http://x/{long}</link>"));
    assert_eq!((item.title.len(), &item.guid, &item.link), (MAX_TITLE, &None, &None));
    let attribute = one(&format!("<enclosure url=\"http://x/{long}\"/>"));
    assert!(attribute.enclosures.is_empty());
}

#[test]
fn the_number_of_items_and_their_depth_are_bounded() {
    let many = rss(&"<item><guid>1</guid></item>".repeat(MAX_ITEMS + 5));
    let cut = feed(&many);
    assert_eq!((cut.items.len(), cut.is_cut), (MAX_ITEMS, true));
    let deep = rss(&format!("<item><guid>1</guid></item>{}", "<a>".repeat(MAX_DEPTH)));
    let deep = feed(&deep);
    assert!(deep.items.len() == 1 && deep.damage.unwrap().contains("deep"));
}

#[test]
fn a_damaged_feed_gives_the_items_before_the_damage() {
    let whole = rss("<item><guid>1</guid></item><item><guid>2</guid></item>");
    for cut in [&whole[..whole.len() - 20], &whole.replace("<guid>2", "<!-- <guid>2")] {
        let feed = feed(cut);
        assert_eq!(feed.items[0].guid.as_deref(), Some("1"));
        assert!(feed.damage.is_some(), "{cut}");
    }
}

#[test]
fn documents_that_are_no_feeds_are_refused() {
    let url = "http://f.example/".parse().unwrap();
    for text in ["", "text", "<html><body><item/></body></html>", "{}", "<rss", "<opml></opml>"] {
        assert_eq!(parse(text, &url).unwrap_err().kind(), Kind::Unsupported, "{text}");
    }
    assert!(feed("<rss/>").items.is_empty());
}

proptest! {
    #[test]
    fn any_text_gives_a_feed_or_an_error(
        text in "(<|>|/|&|;|\"|=|<item>|<title>|</|rss|channel|href|enclosure| |é|<!\\[CDATA\\[|\\]\\]>){0,60}",
    ) {
        let url = "http://f.example/".parse().unwrap();
        let _ = parse(&format!("<rss><channel>{text}"), &url);
        let _ = parse(&text, &url);
    }
}
